"""What a service counts. Where vLLM has a metric, ours has its name and meaning; the others begin with ``zfleet:``.

The names of vLLM are those that the Gateway API's inference extension schedules by. Labels come from the registry and
from the service's settings, never from what a client sends: a stranger cannot make series.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of times to a token, in seconds."""
_SLOW = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0, 100.0, 200.0)
"""Upper bounds of whole answers, in seconds."""
_CONFIDENCE = tuple(step / 10 for step in range(1, 11))

Labels = tuple[str, ...]


class Metrics:
    """All metrics of one gateway process.

    Args:
        registry: Where they are registered; with several gateways their values are summed over processes.
        base: The base's name, ``model_name`` in vLLM's metrics.
    """

    def __init__(self, registry: CollectorRegistry, base: str) -> None:
        self.base = base
        self._registry = registry
        of_base = ("model_name",)
        # What was answered.
        self.success = self._counter(
            "vllm:request_success", "Answers that ended, by how", ("model_name", "finished_reason")
        )
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Tokens of prompts", of_base)
        self.generation_tokens = self._counter("vllm:generation_tokens", "Tokens of answers", of_base)
        self.first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "From a request's body to its first token", of_base, _FAST
        )
        self.between_tokens = self._histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of an answer", of_base, _FAST
        )
        self.whole = self._histogram(
            "vllm:e2e_request_latency_seconds", "From a request's body to the end of its answer", of_base, _SLOW
        )
        # By expert and pass, which vLLM does not know.
        self.requests = self._counter(
            "zfleet:requests", "Requests, by who answered and how they ended", ("model_name", "expert", "outcome")
        )
        self.expert_tokens = self._counter("zfleet:expert_tokens", "Tokens of answers, by expert", ("expert",))
        self.passes = self._histogram("zfleet:pass_seconds", "The two passes of a request", ("pass",), _FAST)
        self.shadowed = self._counter(
            "zfleet:shadow_requests", "Copies that shadows answered, by how they ended", ("expert", "outcome")
        )
        self.shadow_seconds = self._histogram(
            "zfleet:shadow_seconds", "How long a shadow took, with its turn", ("expert",), _SLOW
        )
        self.dispatched = self._counter("zfleet:dispatched", "Decisions of dispatchers", ("dispatcher", "label"))
        self.confidence = self._histogram(
            "zfleet:dispatch_confidence", "Confidence of dispatchers' decisions", ("dispatcher",), _CONFIDENCE
        )
        self.responses = self._counter(
            "zfleet:http_responses", "Responses, by the route's pattern and the status", ("route", "status")
        )

    def _counter(self, name: str, help_: str, labels: Labels) -> Counter:
        return Counter(name, help_, labels, registry=self._registry)

    def _histogram(self, name: str, help_: str, labels: Labels, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_, labels, registry=self._registry, buckets=bounds)

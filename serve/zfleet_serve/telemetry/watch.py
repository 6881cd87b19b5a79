"""Watching one request from its body to the end of its answer: for metrics, traces and the log alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from prometheus_client import CollectorRegistry

from zfleet.engine.contract import Chunk, Engine
from zfleet_serve.access.context import current
from zfleet_serve.adaptive.first_pass import Route
from zfleet_serve.adaptive.shadow import LEFT_OUT, ShadowAnswer
from zfleet_serve.telemetry.lines import RequestLine, RequestLog, Texts
from zfleet_serve.telemetry.metrics import Metrics
from zfleet_serve.telemetry.scrape import EnginesNow, exposition, open_folder
from zfleet_serve.telemetry.traces import add_pass, begin, tracer_of


class Telemetry:
    """What one gateway process tells its operators.

    Args:
        base: The base's name.
        log: Gets a line for each request.
        exporter: Takes the traces; None: as OpenTelemetry's variables say.
    """

    def __init__(self, base: str, log: RequestLog, exporter: SpanExporter | None = None) -> None:
        open_folder()
        self.log = log
        self._registry = CollectorRegistry()
        self.metrics = Metrics(self._registry, base)
        self.tracer, self._stop_tracing = tracer_of(exporter)
        self.answering: Counter[str] = Counter()

    @contextmanager
    def watching(
        self, request: str, operation: str, user_text: str | None, headers: Mapping[str, str]
    ) -> Iterator[RequestWatch]:
        """Watch a request inside the block; what is raised there is how it ended.

        Args:
            request: Its id.
            operation: ``chat`` or ``text_completion``.
            user_text: The user's text, if there is one.
            headers: The client's.
        """
        span = begin(self.tracer, operation, self.metrics.base, headers)
        key = current.get().key
        line = RequestLine(request, operation, None if key is None else key.id)
        watch = RequestWatch(self, line, span, user_text)
        try:
            yield watch
        except BaseException as error:
            watch.failed(error)
            raise
        finally:
            watch.end()

    def shadowed(self, answer: ShadowAnswer) -> None:
        """Count a copy that a shadow answered, and write its line."""
        self.metrics.shadowed.labels(answer.expert, answer.outcome).inc()
        if answer.outcome == LEFT_OUT:
            return
        self.metrics.shadow_seconds.labels(answer.expert).observe(answer.seconds)
        line = RequestLine(
            request=answer.request,
            operation="shadow",
            model=f"{self.metrics.base}:{answer.expert}",
            z=answer.z,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            whole_ms=1e3 * answer.seconds,
            outcome=answer.outcome,
        )
        self.log.write(line, Texts(None, answer.answers))

    def close(self) -> None:
        """Send what is left of the traces, and close the log."""
        self.log.close()
        self._stop_tracing()

    async def scrape(self, engine: Engine) -> bytes:
        """Return all metrics in Prometheus's text form.

        Raises:
            EngineError: No engine answers.
        """
        now = EnginesNow(self.metrics.base, await engine.stats(), self.answering)
        return exposition(self._registry, now)


class RequestWatch:
    """One request under way.

    Args:
        telemetry: Where it is counted.
        line: What its line in the log says so far.
        span: Its span.
        user_text: The user's text, if there is one.
    """

    def __init__(self, telemetry: Telemetry, line: RequestLine, span: Span, user_text: str | None) -> None:
        self._telemetry = telemetry
        self._line = line
        self._span = span
        self._began = time.perf_counter()
        self._began_at = time.time()
        self._second: float | None = None
        self._expert: str | None = None
        self._user_text = user_text
        self._answers: dict[int, list[str]] = {}

    def routed(self, route: Route, prompt_tokens: int) -> None:
        """Tell who answers, as soon as that is known.

        Args:
            route: The experts, and the decision of the first pass.
            prompt_tokens: Of all prompts of the second pass.
        """
        metrics, line = self._telemetry.metrics, self._line
        self._second = time.perf_counter()
        self._expert = route.model
        self._telemetry.answering[route.model] += 1
        line.model, line.z, line.prompt_tokens = route.model, route.z, prompt_tokens
        line.first_pass_ms = route.first_pass_ms
        metrics.prompt_tokens.labels(metrics.base).inc(prompt_tokens)
        self._span.set_attributes(
            {
                "gen_ai.response.model": route.model,
                "gen_ai.usage.input_tokens": prompt_tokens,
                "zfleet.z": route.z,
            }
        )
        decision = route.decision
        if decision is not None and route.first_pass_ms is not None:
            seconds = route.first_pass_ms / 1e3
            line.dispatcher, line.label, line.confidence = decision.method, decision.label, decision.confidence
            metrics.passes.labels("first").observe(seconds)
            metrics.dispatched.labels(decision.method, decision.label or "none").inc()
            metrics.confidence.labels(decision.method).observe(decision.confidence)
            facts: dict[str, AttributeValue] = {
                "zfleet.dispatcher": decision.method,
                "zfleet.label": decision.label or "none",
                "zfleet.confidence": decision.confidence,
                "gen_ai.usage.input_tokens": decision.prompt_tokens,
            }
            end = self._began_at + self._second - self._began
            add_pass(self._telemetry.tracer, self._span, "first pass", end - seconds, end, facts)

    async def following(self, chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
        """Yield an answer's chunks, and count them."""
        metrics, last = self._telemetry.metrics, dict[int, float]()
        between = metrics.between_tokens.labels(metrics.base)
        try:
            async for chunk in chunks:
                now = time.perf_counter()
                if chunk.token_ids:
                    if self._line.first_token_ms is None:
                        self._first_token(now)
                    if chunk.index in last:
                        between.observe((now - last[chunk.index]) / len(chunk.token_ids))
                    last[chunk.index] = now
                    self._line.completion_tokens += len(chunk.token_ids)
                if self._telemetry.log.texts:
                    self._answers.setdefault(chunk.index, []).append(chunk.text)
                if chunk.finish_reason:
                    self._line.outcome = chunk.finish_reason
                    metrics.success.labels(metrics.base, chunk.finish_reason).inc()
                yield chunk
        except BaseException as error:
            self.failed(error)
            raise

    def failed(self, error: BaseException) -> None:
        """Tell that the request ended with an error, or that its client went away."""
        # Who leaves cancels the request, or closes its stream.
        self._line.outcome = type(error).__name__ if isinstance(error, Exception) else "left"
        self._span.set_status(Status(StatusCode.ERROR, self._line.outcome))

    def end(self) -> None:
        """Count the request, and write its line."""
        metrics, line = self._telemetry.metrics, self._line
        whole = time.perf_counter() - self._began
        line.whole_ms = 1e3 * whole
        metrics.requests.labels(metrics.base, self._expert or "none", line.outcome).inc()
        metrics.whole.labels(metrics.base).observe(whole)
        metrics.generation_tokens.labels(metrics.base).inc(line.completion_tokens)
        if self._expert is not None and self._second is not None:
            self._leave(self._expert)
            metrics.expert_tokens.labels(self._expert).inc(line.completion_tokens)
            second = self._began + whole - self._second
            metrics.passes.labels("second").observe(second)
            end = self._began_at + whole
            add_pass(self._telemetry.tracer, self._span, "second pass", end - second, end, {})
        self._span.set_attributes(
            {
                "gen_ai.usage.output_tokens": line.completion_tokens,
                "gen_ai.response.finish_reasons": (line.outcome,),
                "gen_ai.response.id": line.request,
            }
        )
        self._span.end()
        answers = tuple("".join(self._answers[index]) for index in sorted(self._answers))
        self._telemetry.log.write(line, Texts(self._user_text, answers))

    def _first_token(self, now: float) -> None:
        seconds = now - self._began
        self._line.first_token_ms = 1e3 * seconds
        metrics = self._telemetry.metrics
        metrics.first_token.labels(metrics.base).observe(seconds)
        self._span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)

    def _leave(self, expert: str) -> None:
        answering = self._telemetry.answering
        answering[expert] -= 1
        if not answering[expert]:
            del answering[expert]

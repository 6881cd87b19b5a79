"""What ``/metrics`` answers: what all gateways of the service counted, and what the engines hold at this moment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from zfleet.engine.contract import EngineStats

CONTENT_TYPE = CONTENT_TYPE_LATEST
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own variable: a folder where the processes of a service keep their values."""


def open_folder() -> None:
    """Make the folder of the variable, if it is set, before any metric is made. Nobody else may read or write there."""
    if folder := os.environ.get(FOLDER):
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)


class EnginesNow(Collector):
    """What the engines hold at one moment: the same in every gateway, so that nothing of it is summed or kept.

    Args:
        base: The base's name.
        stats: Of all engines of the service.
        answering: The experts that answer now, through this gateway.
    """

    def __init__(self, base: str, stats: EngineStats, answering: Iterable[str]) -> None:
        self._base = base
        self._stats = stats
        self._answering = sorted(answering)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as prometheus_client asks for them."""
        stats = self._stats
        for name, what, value in (
            ("vllm:num_requests_running", "Answers that are generated now", stats.running),
            ("vllm:num_requests_waiting", "Answers and scores that are queued", stats.waiting),
            ("zfleet:known_z", "z-vectors that the engines were given", stats.known_z),
            ("zfleet:resident_z", "z-vectors in the table of z", stats.resident_z),
            ("zfleet:z_rows", "Rows of the table of z", stats.table_rows),
        ):
            family = GaugeMetricFamily(name, what, labels=("model_name",))
            family.add_metric((self._base,), value)
            yield family
        adapters = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Experts that answer now, through this gateway, and the rows of the table of z; the value is a time",
            labels=("model_name", "max_lora", "running_lora_adapters", "waiting_lora_adapters"),
        )
        adapters.add_metric((self._base, str(stats.table_rows), ",".join(self._answering), ""), time.time())
        yield adapters


def exposition(own: CollectorRegistry, now: EnginesNow) -> bytes:
    """Write all values in Prometheus's text form.

    Args:
        own: What this process counted; with the folder of ``FOLDER``, what all processes counted is there.
        now: What the engines hold.
    """
    counted = own
    if os.environ.get(FOLDER):
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
    held = CollectorRegistry()
    held.register(now)
    return generate_latest(counted) + generate_latest(held)

"""How a service ends: on a signal, and leaving no process behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

_SHUTDOWN_SECONDS = 30


def shut_down_serve() -> None:
    """End Serve in this cluster, its applications and its proxies included."""
    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        # The controller ends while it answers; by default Ray would complain that it cannot ask once more.
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=_SHUTDOWN_SECONDS)
    except (ValueError, RayActorError, GetTimeoutError):
        pass  # there is none, or no longer; what is left is for Serve's own shutdown
    serve.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the service as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

"""How long a service lives: the connection to Ray, signals, and an end that leaves no process behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

import zfleet
import zfleet_registry
import zfleet_serve
from zfleet.errors import ServeError

_OBJECT_STORE_BYTES = 500_000_000
_SHUTDOWN_SECONDS = 30


def connect(address: str | None) -> None:
    """Connect to a cluster, or start one on this machine; a connection that exists is used.

    Raises:
        ServeError: No cluster answers at the address.
    """
    if ray.is_initialized():
        return
    try:
        if address is None:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=_OBJECT_STORE_BYTES,
            )
        else:
            modules = [str(Path(module.__path__[0])) for module in (zfleet, zfleet_registry, zfleet_serve)]
            ray.init(address=address, log_to_driver=False, runtime_env={"py_modules": modules})
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ServeError(
            f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}",
            "check --address and that the cluster runs (`ray status`)",
        ) from error


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
def connected(address: str | None) -> Iterator[None]:
    """As ``connect``, for the length of the block."""
    mine = not ray.is_initialized()
    connect(address)
    try:
        yield
    finally:
        if mine:
            with undisturbed():
                ray.shutdown()


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


@contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not leave processes behind: it waits until the first has been obeyed."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""The end of a service: on a signal, with everything that it started and nothing else."""

from __future__ import annotations

import threading

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.exceptions import RayServeException

from zfleet.errors import ServeError

_SHUTDOWN_SECONDS = 30


def serve_runs() -> bool:
    """Return whether Ray Serve runs in this cluster, whoever started it."""
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def delete_application(name: str) -> None:
    """End one application; others go on.

    Raises:
        ServeError: It does not end.
    """
    try:
        serve.delete(name)
    except (RayServeException, RayActorError):
        return  # Serve is gone, and its applications with it
    except TimeoutError as error:
        raise ServeError(
            f"the application {name!r} does not end: {error}", "`serve status` says what holds it"
        ) from error


def shut_down_serve(besides: str) -> None:
    """End Serve in this cluster with its proxies, unless it has other applications by now.

    Args:
        besides: The name of the application that does not count.
    """
    try:
        if serve.status().applications.keys() - {besides}:
            return
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        # The controller ends while it answers; by default Ray would try again, and complain.
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=_SHUTDOWN_SECONDS)
    except (ValueError, RayActorError, GetTimeoutError):
        pass  # the controller is gone; Serve's own shutdown does the rest
    serve.shutdown()  # type: ignore[no-untyped-call]


def wait_for_interrupt() -> None:
    """Wait for Ctrl-C, which raises ``KeyboardInterrupt``."""
    threading.Event().wait()

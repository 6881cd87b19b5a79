"""Connecting to a Ray cluster, or starting one on this machine for as long as a job or a service runs."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default workers have a lower priority than all else on the machine: other load would starve them.
    "RAY_worker_niceness": "0",
    # At the default, every report of a Train worker blocks for two seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # By default Ray starts a task again for ever if its memory monitor ends it.
    "RAY_task_oom_retries": "3",
    # Later versions of Ray do this by default; this one warns about it in every process without a GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402  (it reads the settings above when it is imported)

from zfleet.errors import ClusterError  # noqa: E402
from zfleet_cluster.errors import on_one_line  # noqa: E402
from zfleet_cluster.sent_code import code_environment  # noqa: E402
from zfleet_cluster.temporary import check_temporary_folder, folder_error  # noqa: E402

_OBJECT_STORE_BYTES = 200_000_000
"""For tasks with their prompts, and for a few pieces of a base on its way. What does not fit goes to the disk."""
_PROBE_SECONDS = 5

_MISMATCH = "Version mismatch"
"""In Ray's error if the cluster runs another version of Ray or Python than this process."""

_TOKENS_ARE_ON = logging.getLogger("ray._private.authentication.authentication_token_setup")
"""Logs at every start that Ray's clients need a token, which is the default unless ``RAY_AUTH_MODE`` is set."""


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Connect to Ray inside the block.

    A connection that this process already has is used and stays. Without an address a cluster is started on this
    machine and stopped after the block, so that nothing is left behind.

    Args:
        address: ``host:port`` or ``auto`` of a running cluster. zfleet's code is sent there, so the cluster needs the
            same dependencies but no zfleet.

    Raises:
        ClusterError: No cluster answers at the address, or none comes up on this machine.
    """
    if ray.is_initialized():
        yield
        return
    _connect(address)
    try:
        yield
    finally:
        with undisturbed():
            ray.shutdown()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM inside the block, so that a second one does not leave processes behind."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _connect(address: str | None) -> None:
    if address is None:
        check_temporary_folder()
    try:
        with _quiet(_TOKENS_ARE_ON):
            if address is None:
                _start()
            else:
                _join(address)
    except Exception as error:  # Ray raises a plain Exception if a process of its own does not start in time
        reason = on_one_line(error)
        if address is None:
            raise folder_error(error) or ClusterError(
                f"Ray does not start on this machine: {reason}",
                "see that it has a processor, memory and disk to spare, and give the command again",
            ) from error
        if _MISMATCH in reason:
            raise ClusterError(
                f"the Ray cluster at {address} cannot be used from here: {reason}",
                "install the same versions of Ray and of Python on both sides",
            ) from error
        raise ClusterError(
            f"no Ray cluster at {address}: {reason}",
            "check --address and that the cluster runs (`ray status`); if it asks for a token, set RAY_AUTH_MODE=token",
        ) from error


def _start() -> None:
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=_OBJECT_STORE_BYTES,
    )


def _join(address: str) -> None:
    _probe(address)
    # Ray's own logging would print lines about the connection before ours.
    ray.init(address=address, log_to_driver=False, configure_logging=False, runtime_env=code_environment())


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Silence the warnings of a logger inside the block."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _probe(address: str) -> None:
    """Fail early if nothing listens: Ray would try for minutes.

    Raises:
        OSError: Nothing answers within a few seconds.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()

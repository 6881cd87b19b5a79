"""Connecting to a Ray cluster, or starting one on this machine for as long as a job runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray runs workers at a lower priority than everything else on the machine: other load would starve them.
    "RAY_worker_niceness": "0",
    # At the default, every report of a Train worker blocks for two seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402  (it reads the settings above when it is imported)

import zfleet  # noqa: E402
import zfleet_jobs  # noqa: E402
import zfleet_registry  # noqa: E402
from zfleet.errors import JobError  # noqa: E402


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """A Ray connection inside the block.

    Where this process is connected already, that connection is used and left alone. Without an address a
    cluster is started on this machine and stopped with the block, so that nothing is left behind.

    Args:
        address: ``host:port`` or ``auto`` of a running cluster. zfleet's own code is sent along, so the
            cluster needs the same dependencies but no zfleet.

    Raises:
        JobError: No cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    try:
        if address is None:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                configure_logging=False,
            )
        else:
            modules = [str(Path(module.__path__[0])) for module in (zfleet, zfleet_jobs, zfleet_registry)]
            ray.init(address=address, runtime_env={"py_modules": modules}, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise JobError(
            f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}",
            "check --address and that the cluster runs (`ray status`)",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


_OBJECT_STORE_BYTES = 500_000_000

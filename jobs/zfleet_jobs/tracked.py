"""Runs of MLflow that end, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from zfleet.errors import ZfleetError
from zfleet_registry import ExpertRegistry


@contextmanager
def ending(registry: ExpertRegistry, run: str) -> Iterator[None]:
    """End a run after the block: as finished, or as failed if the block raises.

    Args:
        registry: Has the run.
        run: Its id.

    Raises:
        RegistryError: The run cannot be ended. The error of a block counts more.
    """
    try:
        yield
    except BaseException:
        with suppress(ZfleetError):
            registry.end_run(run, "FAILED")
        raise
    registry.end_run(run)

"""What the tests of jobs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
import ray

from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.engine.contract import EngineStats
from zfleet_jobs.pool.pool import EnginePool, engine_pool
from zfleet_jobs.shipping import ShippedBase


@pytest.fixture
def one_member(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], list[EngineStats]]:
    """Gives a job's module a pool of one member, whatever its engine, and says what the job left in it."""

    def give(module: ModuleType) -> list[EngineStats]:
        left: list[EngineStats] = []

        @contextmanager
        def shared(shipped: ShippedBase, engine: EngineSpec, resources: ResourceSpec) -> Iterator[EnginePool]:
            with engine_pool(shipped, engine, resources, members=1) as pool:
                yield pool
                left.append(ray.get(pool.members[0].stats.remote()))

        monkeypatch.setattr(module, "shared_pool", shared)
        return left

    return give

"""A replica in this process, without Ray: opening, load, and the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from zfleet.config.specs import EngineSpec
from zfleet.engine.contract import Engine
from zfleet.errors import EngineError
from zfleet.testing.engine_harness import sampled
from zfleet.testing.fake_engine import FakeEngine, fake_tokens
from zfleet_cluster.fleet.listener import Listener
from zfleet_cluster.fleet.replica import Replica
from zfleet_cluster.testing import TOKEN

BASE: Any = None


class FakeReplica(Replica):
    def __init__(self) -> None:
        super().__init__(EngineSpec(), 1, TOKEN)
        self.engines: list[FakeEngine] = []

    async def start_engine(self, base: Any) -> Engine:
        self.engines.append(FakeEngine(step_seconds=0.01))
        return self.engines[-1]


async def test_an_engine_whose_replica_cannot_listen_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(listener: Listener, host: str) -> Any:
        raise OSError("no such interface")

    replica = FakeReplica()
    with monkeypatch.context() as patch:
        patch.setattr(Listener, "start", refused)
        with pytest.raises(OSError, match="no such interface"):
            await replica.open(BASE)
    with pytest.raises(EngineError, match="closed"):
        await replica.engines[0].check_health()
    assert await replica.address() is None
    assert await replica.load() == 0
    address = await replica.open(BASE)
    assert await replica.open(BASE) == address
    await replica.check_health()
    await replica.close()
    assert len(replica.engines) == 2


async def test_a_replica_drains_when_its_answers_have_ended() -> None:
    replica = FakeReplica()
    await replica.open(BASE)
    stream = replica.engines[0].generate(replace(sampled(fake_tokens("ab"), 1, max_tokens=20), stream=True))
    await anext(stream)
    assert await replica.load() == 1
    draining = asyncio.create_task(replica.drain())
    await asyncio.sleep(0.05)
    assert not draining.done()
    async for _ in stream:
        pass
    async with asyncio.timeout(10):
        await draining
    await replica.close()
    with pytest.raises(EngineError):
        await replica.check_health()

"""The processes of a vLLM engine, with a stand-in for vLLM: who restarts them, and what a health check says."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from zfleet.engine.vllm_engine import processes
from zfleet.engine.vllm_engine.llm import EngineDied
from zfleet.engine.vllm_engine.plan import VllmPlan
from zfleet.engine.vllm_engine.processes import VllmCore, WorkerState
from zfleet.errors import EngineError


class Llm:
    """In place of ``AsyncLLM``: remembers the z it was given, and dies or hangs when told to."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self.dead = self.hangs = self.ended = False

    def shutdown(self, timeout: float) -> None:
        self.ended = True


class World:
    """All that was started, and whether the next start works."""

    def __init__(self) -> None:
        self.started: list[Llm] = []
        self.failure: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def launch(self, plan: VllmPlan) -> Llm:
        self.go_on.wait(30)
        if self.failure is not None:
            raise self.failure
        self.started.append(Llm())
        return self.started[-1]


async def _call(llm: Llm, method: str, *arguments: object) -> Any:
    if llm.hangs:
        await asyncio.Event().wait()
    if llm.dead:
        raise EngineDied
    if method == "zfleet_put":
        llm.known.append(str(arguments[0]))
    return []


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(processes, "launch", world.launch)
    monkeypatch.setattr(processes, "call_workers", _call)
    return world


def _known() -> WorkerState:
    return WorkerState({"a": torch.ones(2)})


async def _core() -> VllmCore:
    plan = SimpleNamespace(factors=SimpleNamespace(names=[]), folder=SimpleNamespace(cleanup=lambda: None))
    core = VllmCore(cast(VllmPlan, plan))
    await core.start()
    return core


async def _settled(core: VllmCore) -> None:
    while core._reviving:
        await asyncio.sleep(0.001)


async def test_a_request_that_leaves_does_not_end_the_start_that_others_await(world: World) -> None:
    core = await _core()
    world.started[0].dead = True
    world.go_on.clear()
    leaves, stays = (asyncio.create_task(core.revive(1, _known)) for _ in range(2))
    await asyncio.sleep(0.01)
    leaves.cancel()
    world.go_on.set()
    await stays
    assert (core.generation, len(world.started), world.started[0].ended) == (2, 2, True)
    assert world.started[1].known == ["a"]
    await core.revive(1, _known)
    assert len(world.started) == 2, "that generation was replaced already"
    await core.close()


async def test_a_health_check_restarts_what_died(world: World) -> None:
    core = await _core()
    await core.check_health(_known)
    world.started[0].dead = True
    world.go_on.clear()
    await core.check_health(_known)
    await asyncio.sleep(0.01)
    await core.check_health(_known)
    world.go_on.set()
    await _settled(core)
    assert world.started[1].known == ["a"]
    await core.check_health(_known)
    await core.close()


@pytest.mark.parametrize("failure", [EngineError("no memory", "give it some"), OSError("no memory")])
async def test_processes_that_do_not_start_again_show_until_they_do(world: World, failure: Exception) -> None:
    core = await _core()
    world.started[0].dead = True
    world.failure = failure
    with pytest.raises(EngineError, match="no memory"):
        await core.revive(1, _known)
    with pytest.raises(EngineError, match="no memory"):
        await core.check_health(_known)
    world.failure = None
    await core.revive(1, _known)
    await core.check_health(_known)
    await core.close()


async def test_processes_that_hang_show(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    core = await _core()
    monkeypatch.setattr(processes, "HANG_SECONDS", 0.01)
    world.started[0].hangs = True
    with pytest.raises(EngineError, match="has not answered"):
        await core.check_health(_known)
    world.started[0].hangs = False
    await core.check_health(_known)
    await core.close()


async def test_a_start_that_hangs_shows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    core = await _core()
    monkeypatch.setattr(processes, "_START_SECONDS", 0.01)
    world.started[0].dead = True
    world.go_on.clear()
    await core.check_health(_known)
    await asyncio.sleep(0.05)
    with pytest.raises(EngineError, match="has been starting"):
        await core.check_health(_known)
    world.go_on.set()
    await _settled(core)
    await core.check_health(_known)
    await core.close()

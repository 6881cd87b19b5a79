"""Experts give the engine what requests need, and no more than it is to hold."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from zfleet.errors import RegistryUnreachable, UnknownZ
from zfleet.testing.engine_harness import greedy, run
from zfleet.testing.fake_engine import FakeEngine, fake_z
from zfleet_registry import Parent
from zfleet_serve.adaptive import experts as experts_module
from zfleet_serve.adaptive import last_known
from zfleet_serve.adaptive.experts import Experts, Part, parts_of
from zfleet_serve.testing import SLUG, FakeRegistry


async def test_the_engine_holds_those_that_were_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_module, "LOADED", 2)
    registry, engine = FakeRegistry(), FakeEngine()
    versions = [registry.add(name, fake_z(seed)) for seed, name in enumerate("abc")]
    experts = Experts(lambda: registry, engine, SLUG)
    digests = [await experts.ready(version) for version in versions[:2]]
    await experts.ready(versions[0])
    digests.append(await experts.ready(versions[2]))
    assert (await engine.stats()).known_z == 2
    await run(engine, greedy((97,), digests[0]))
    with pytest.raises(UnknownZ):
        await run(engine, greedy((97,), digests[1]))
    assert await experts.ready(versions[1]) == digests[1]
    await run(engine, greedy((97,), digests[1]))
    assert [call for call in registry.calls if call == "load b/1"] == ["load b/1"] * 2
    await engine.close()


def test_an_expert_that_began_at_a_mixture_answers_as_itself() -> None:
    registry = FakeRegistry()
    mixture = registry.add(
        "both", fake_z(1), parents=(Parent("math/3", "0" * 64, 0.5), Parent("code/1", "1" * 64, 2.0))
    )
    assert parts_of(mixture) == (Part("math", 3, 0.5), Part("code", 1, 2.0))
    began = replace(mixture.provenance, kind="expert", parents=(Parent("both/1", mixture.z_digest, 1.0),))
    assert parts_of(replace(mixture, name="distilled", provenance=began)) == (Part("distilled", 1, 1.0),)


async def test_requests_find_a_promotion_that_was_asked_for_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_module, "FRESH_SECONDS", 0.01)
    registry, engine = FakeRegistry(), FakeEngine()
    registry.add("math", fake_z(1))
    experts = Experts(lambda: registry, engine, SLUG)
    await experts.open()
    assert (await experts.resolve("math")).version == 1
    registry.add("math", fake_z(2))
    async with asyncio.timeout(10):
        while (await experts.resolve("math")).version == 1:
            await asyncio.sleep(0.01)
    await experts.close()
    await asyncio.sleep(0.05)  # for a question that was under way
    calls = len(registry.calls)
    await asyncio.sleep(0.05)
    assert len(registry.calls) == calls, "it asks on after it was closed"
    await engine.close()


class Stuck(FakeRegistry):
    """Never answers questions about ``stuck``, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def resolve(self, reference: str, base_slug: str | None = None) -> Any:
        if reference == "stuck":
            self.free.wait()
        return super().resolve(reference, base_slug)


async def test_a_question_that_hangs_holds_up_no_other_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_module, "FRESH_SECONDS", 0.01)
    monkeypatch.setattr(experts_module, "NEW_SECONDS", 0.02)
    monkeypatch.setattr(last_known, "NEW_SECONDS", 0.1)
    monkeypatch.setattr(last_known, "OLD_SECONDS", 1000.0)
    registry, engine = Stuck(), FakeEngine()
    registry.add("math", fake_z(1))
    experts = Experts(lambda: registry, engine, SLUG)
    await experts.open()
    try:
        with pytest.raises(RegistryUnreachable):
            await experts.resolve("stuck")
        assert (await experts.resolve("math")).version == 1
        registry.add("math", fake_z(2))
        async with asyncio.timeout(10):
            while (await experts.resolve("math")).version == 1:
                await asyncio.sleep(0.01)
        experts.check()
    finally:
        registry.free.set()
        await experts.close()
        await engine.close()

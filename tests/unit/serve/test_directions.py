"""An approximate engine chooses its directions for the experts that are served, and models show what is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from zfleet.errors import EngineError, RegistryUnreachable
from zfleet.testing.fake_engine import FakeEngine, fake_z
from zfleet_registry import ExpertVersion
from zfleet_serve.adaptive import directions as directions_module
from zfleet_serve.adaptive.directions import DirectionsForExperts
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.testing import SLUG, FakeRegistry, Stage, always_asked


class Choosing(FakeEngine):
    """Notes the choices; fails so many times first."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.choices: list[tuple[set[str], bool]] = []
        self.failures = failures

    async def choose_directions(self, digests: Sequence[str], again: bool = False) -> None:
        if self.failures:
            self.failures -= 1
            raise EngineError("no replica answered")
        self.choices.append((set(digests), again))


async def _chosen(engine: Choosing) -> None:
    async with asyncio.timeout(10):
        while not engine.choices:
            await asyncio.sleep(0.01)


async def test_they_are_chosen_once_for_what_bare_names_mean_and_again_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    always_asked(monkeypatch)
    registry, engine = FakeRegistry(), Choosing(failures=2)
    registry.add("math", fake_z(1))
    registry.add("math", fake_z(2))
    registry.add("sort", fake_z(3))
    directions = DirectionsForExperts(Experts(lambda: registry, engine, SLUG), engine)
    directions.start()
    await _chosen(engine)
    registry.add("sort", fake_z(4))
    await asyncio.sleep(0.05)
    first = {fake_z(2).digest, fake_z(3).digest}
    assert engine.choices == [(first, False)], "a promotion changes nothing by itself"
    assert await directions.choose(again=True) == 2
    assert engine.choices[1:] == [({fake_z(2).digest, fake_z(4).digest}, True)]
    await directions.stop()
    await engine.close()


async def test_a_damaged_expert_does_not_keep_the_others_from_it(caplog: pytest.LogCaptureFixture) -> None:
    registry, engine = FakeRegistry(), Choosing()
    broken = registry.add("broken", fake_z(1))
    registry.add("math", fake_z(2))
    del registry.zs[broken.z_digest]
    directions = DirectionsForExperts(Experts(lambda: registry, engine, SLUG), engine)
    assert await directions.choose(again=False) == 1
    assert engine.choices == [({fake_z(2).digest}, False)]
    assert "broken/1" in caplog.text
    await engine.close()


async def test_without_experts_nothing_is_chosen_and_no_more_than_the_engine_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    always_asked(monkeypatch)
    monkeypatch.setattr(directions_module, "LOADED", 1)
    registry, engine = FakeRegistry(), Choosing()
    directions = DirectionsForExperts(Experts(lambda: registry, engine, SLUG), engine)
    assert await directions.choose(again=False) == 0
    assert engine.choices == []
    for seed, name in enumerate("ab"):
        registry.add(name, fake_z(seed))
    assert await directions.choose(again=False) == 1
    await engine.close()


async def test_a_registry_that_is_away_is_asked_again() -> None:
    class Away(FakeRegistry):
        away = True

        def list(self, base_slug: str | None = None) -> list[ExpertVersion]:
            if self.away:
                raise RegistryUnreachable("away", "wait")
            return super().list(base_slug)

    registry, engine = Away(), Choosing()
    registry.add("math", fake_z(1))
    directions = DirectionsForExperts(Experts(lambda: registry, engine, SLUG), engine)
    directions.start()
    await asyncio.sleep(0.1)
    assert engine.choices == []
    registry.away = False
    await _chosen(engine)
    await directions.stop()
    await engine.close()


async def test_models_show_what_is_left_out_of_experts_that_are_loaded(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (math,) = [version for version in stage.registry.versions if version.reference == "math/2"]

    async def errors() -> dict[str, float]:
        return {math.z_digest: 4e-4}

    monkeypatch.setattr(stage.engine, "truncation_errors", errors)

    async def shown() -> dict[str, object]:
        listed = (await stage.http.get("/v1/models")).json()["data"]
        return {model["id"]: model["zfleet"]["truncation_error"] for model in listed}

    assert set((await shown()).values()) == {None}, "an exact engine is not asked"
    stage.service.served = replace(stage.service.served, approximate=True)
    listed = await shown()
    assert listed.pop("fake:math") == 4e-4
    assert set(listed.values()) == {None}
    for name, found in (("math", 4e-4), ("math/2", 4e-4), ("math/1", None)):
        model = (await stage.http.get(f"/v1/models/fake:{name}")).json()
        assert model["zfleet"]["truncation_error"] == found


async def test_models_are_listed_while_no_engine_answers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> dict[str, float]:
        raise EngineError("no replica answered")

    monkeypatch.setattr(stage.engine, "truncation_errors", away)
    stage.service.served = replace(stage.service.served, approximate=True)
    response = await stage.http.get("/v1/models")
    assert response.status_code == 200
    assert len(response.json()["data"]) == 6

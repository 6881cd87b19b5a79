"""Dispatchers of the registry choose who answers, with the experts that they were calibrated with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from zfleet.adapt.calibration import Facts
from zfleet.adapt.document import DispatcherDocument
from zfleet.adapt.stored import StoredDispatcher
from zfleet.svf.mixture import mix
from zfleet.testing.fake_engine import fake_z
from zfleet_serve.testing import Stage, always_asked, fake_stage

FACTS = Facts(
    prompts=500,
    measured=250,
    data_digest="d",
    labels=("math", "sort"),
    accuracy=0.9,
    ece=0.02,
    coverage=0.8,
    risk=0.01,
    risk_asked=0.05,
    risk_at_most=0.04,
    certainty=0.95,
    strange_at_most=0.05,
)
EXPERTS = {"kind/1": fake_z(1).digest, "math/1": fake_z(9).digest, "sort/1": fake_z(3).digest}
CLASSIFIER = {"kind": "classifier", "asks": "kind/1", "question": "kind? {prompt}"}


def stored(*steps: dict[str, Any], **changes: Any) -> StoredDispatcher:
    """Make a dispatcher that routes to the first version of `math`, which is not the champion."""
    values: dict[str, Any] = {
        "base": "fake-base",
        "factors": "fake-factors",
        "experts": EXPERTS,
        "routes": {"math": {"math/1": 1.0}, "sort": {"sort/1": 1.0}},
        "steps": steps or [CLASSIFIER | {"calibration": {"limit": 0.5, "threshold": 0.6}}],
        "facts": FACTS,
    }
    return StoredDispatcher(DispatcherDocument.model_validate(values | changes))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with fake_stage("router") as stage:
        yield stage


async def ask(stage: Stage, prompt: str, model: str = "fake:auto", **options: Any) -> tuple[str, dict[str, Any]]:
    """Return the answer, and what it says of who answered."""
    answer = await stage.client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], temperature=0, **options
    )
    assert answer.model_extra is not None
    return answer.choices[0].message.content or "", answer.model_extra["zfleet"]


async def test_auto_routes_to_the_versions_that_were_calibrated(stage: Stage) -> None:
    stage.registry.add_dispatcher("router", stored())
    said, details = await ask(stage, "math 1 2")
    assert said == "old math: math 1 2"
    assert details["model"] == "fake:math/1"
    assert details["mixture"] == [{"expert": "math", "version": 1, "alpha": 1.0}]
    assert details["dispatch"]["label"] == "math"
    assert details["dispatch"]["confidence"] == pytest.approx(1.0)
    assert (await ask(stage, "sort 1"))[0] == "sort: sort 1"


@pytest.mark.parametrize(
    ("calibration", "prompt", "label"),
    [
        ({"limit": 0.5, "temperature": 1000.0, "threshold": 0.6}, "math 1", "math"),
        ({"limit": 0.5, "threshold": None}, "math 1", "math"),
        ({"limit": 0.5}, "rain now", None),
    ],
)
async def test_the_base_answers_what_it_is_not_sure_of(
    stage: Stage, calibration: dict[str, Any], prompt: str, label: str | None
) -> None:
    stage.registry.add_dispatcher("router", stored(CLASSIFIER | {"calibration": calibration}))
    said, details = await ask(stage, prompt)
    assert said == f"base: {prompt}"
    assert (details["model"], details["mixture"], details["dispatch"]["label"]) == ("fake", [], label)
    assert details["dispatch"]["reason"].endswith("base")


async def test_a_mixture_of_experts_is_mixed_once_and_its_alphas_are_told(stage: Stage) -> None:
    soft = CLASSIFIER | {"kind": "soft", "calibration": {"limit": 0.5, "temperature": 200.0}}
    stage.registry.add_dispatcher("router", stored(soft))
    said, details = await ask(stage, "math 1")
    assert said == "a mixture: math 1"
    assert details["model"] == "fake:math/1+sort/1"
    alphas = {part["expert"]: part["alpha"] for part in details["mixture"]}
    assert alphas["math"] > alphas["sort"] > 0
    assert sum(alphas.values()) == pytest.approx(1)
    assert details["z"] == mix([fake_z(9), fake_z(3)], [alphas["math"], alphas["sort"]]).digest
    assert (await ask(stage, "math 1"))[1]["z"] == details["z"]
    loads = [call for call in stage.registry.calls if call.startswith("load")]
    assert sorted(loads) == ["load kind/1", "load math/1", "load router/1", "load sort/1"]


async def test_a_task_has_its_mixture(stage: Stage) -> None:
    few_shot = stored({"kind": "few_shot"}, routes={}, tasks={"exam": {"math/1": 0.5, "sort/1": (0.5, 0.25)}})
    stage.registry.add_dispatcher("router", few_shot)
    said, details = await ask(stage, "anything", metadata={"task": "exam"})
    assert said == "a mixture: anything"
    assert details["mixture"][1] == {"expert": "sort", "version": 1, "alpha": [0.5, 0.25]}
    assert details["dispatch"]["confidence"] == 1.0
    said, details = await ask(stage, "anything", metadata={"other": "exam"})
    assert said == "base: anything"
    assert "names no task" in details["dispatch"]["reason"]
    with pytest.raises(openai.BadRequestError, match="no mixture is bound to task 'lost'") as caught:
        await ask(stage, "anything", metadata={"task": "lost"})
    assert "exam" in str(caught.value)


async def test_a_task_that_a_dispatcher_does_not_need_changes_nothing(stage: Stage) -> None:
    stage.registry.add_dispatcher("router", stored())
    assert (await ask(stage, "math 1", metadata={"task": "lost"}))[0] == "old math: math 1"


async def test_any_dispatcher_can_be_asked_by_name(stage: Stage) -> None:
    stage.registry.add_dispatcher("router", stored())
    stage.registry.add_dispatcher("other", stored(CLASSIFIER | {"calibration": {"threshold": None}}))
    assert (await ask(stage, "math 1", "fake:router/1"))[0] == "old math: math 1"
    assert (await ask(stage, "math 1", "fake:router@champion"))[0] == "old math: math 1"
    assert (await ask(stage, "math 1", "fake:other"))[0] == "base: math 1"
    names = [model.id async for model in stage.client.models.list()]
    assert names == [
        "fake",
        "fake:auto",
        "fake:both",
        "fake:kind",
        "fake:math",
        "fake:other",
        "fake:router",
        "fake:sort",
    ]
    for name in names:
        assert (await stage.client.models.retrieve(name)).id == name


async def test_a_new_version_takes_over_without_a_restart(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.registry.add_dispatcher("router", stored())
    assert (await ask(stage, "math 1"))[0] == "old math: math 1"
    stage.registry.add_dispatcher("router", stored(CLASSIFIER | {"calibration": {"threshold": None}}))
    always_asked(monkeypatch)
    assert (await ask(stage, "math 1"))[0] == "base: math 1"


async def test_a_dispatcher_that_is_not_there_is_404(stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError):
        await ask(stage, "math 1")
    with pytest.raises(openai.NotFoundError):
        await stage.client.models.retrieve("fake:auto")
    assert "fake:auto" not in [model.id async for model in stage.client.models.list()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": EXPERTS | {"math/1": "0" * 64}}, "math/1 of z 000000000000, and math/1 has z"),
        ({"experts": EXPERTS | {"gone/4": "0" * 64}}, "gone/4 is not there"),
        ({"base": "elsewhere"}, "calibrated on base elsewhere, not on base fake-base"),
        ({"factors": "elsewhere"}, "calibrated on factors elsewhere, not on factors fake-factors"),
    ],
)
async def test_other_experts_than_it_was_calibrated_with_are_an_error(
    stage: Stage, changes: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.registry.add_dispatcher("router", stored(**changes))
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(stage, "math 1")
    assert "elsewhere" not in str(caught.value)
    assert message in caplog.text
    assert (await ask(stage, "math 1", "fake:math"))[0] == "math: math 1", "other models go on"


async def test_an_expert_is_no_dispatcher(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_stage("math") as stage:
        with pytest.raises(openai.InternalServerError):
            await ask(stage, "math 1")
    assert "math/2 is an expert, not a dispatcher" in caplog.text


async def test_drift_is_logged_once_and_seen_where_the_service_shows_its_state(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    stage.registry.add_dispatcher("router", stored())
    for place in range(30):
        await ask(stage, f"math {place}", max_tokens=1)
    assert (await stage.http.get("/healthz")).json()["dispatchers"] == [
        {"dispatcher": "router/1", "requests": 30, "not_recognised": 0, "drift": False}
    ]
    for place in range(30):
        await ask(stage, f"rain {place}", max_tokens=1)
    (state,) = (await stage.http.get("/healthz")).json()["dispatchers"]
    assert state == {"dispatcher": "router/1", "requests": 60, "not_recognised": 30, "drift": True}
    assert caplog.text.count("traffic has drifted from what dispatcher router/1 was calibrated on") == 1


async def test_a_crowd_opens_a_dispatcher_once(stage: Stage) -> None:
    stage.registry.add_dispatcher("router", stored())
    answers = await asyncio.gather(*(ask(stage, f"math {place}") for place in range(20)))
    assert {said.split(":")[0] for said, _ in answers} == {"old math"}
    assert [call for call in stage.registry.calls if call == "load router/1"] == ["load router/1"]
    (state,) = (await stage.http.get("/healthz")).json()["dispatchers"]
    assert state["requests"] == 20


async def test_a_dispatcher_that_was_not_calibrated_raises_no_alarm(stage: Stage) -> None:
    stage.registry.add_dispatcher("router", stored(facts=None))
    for place in range(30):
        await ask(stage, f"rain {place}", max_tokens=1)
    assert (await stage.http.get("/healthz")).json()["dispatchers"] == []


async def test_the_least_used_dispatcher_is_forgotten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zfleet_serve.adaptive.first_pass.OPENED", 1)
    stage.registry.add_dispatcher("router", stored())
    stage.registry.add_dispatcher("other", stored(facts=FACTS.model_copy(update={"prompts": 600})))
    for name in ("router", "other", "router"):
        await ask(stage, "math 1", f"fake:{name}")
    assert [call for call in stage.registry.calls if call == "load router/1"] == ["load router/1"] * 2

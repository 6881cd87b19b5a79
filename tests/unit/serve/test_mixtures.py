"""Mixtures that requests name: mixed for them, cached by content, never the base in their place."""

from __future__ import annotations

from typing import Any

import pytest

from zfleet.svf.mixture import mix
from zfleet.testing.fake_engine import fake_z
from zfleet_serve.adaptive import experts
from zfleet_serve.testing import Stage

CHAT = [{"role": "user", "content": "hi you"}]


async def ask(stage: Stage, mixture: object, **change: Any) -> Any:
    body = {"model": "fake", "messages": CHAT, "temperature": 0, "zfleet": {"mixture": mixture}} | change
    return await stage.http.post("/v1/chat/completions", json=body)


async def test_a_mixture_answers_and_says_of_what(stage: Stage) -> None:
    answer = (await ask(stage, {"math": 0.75, "sort/1": [0.5, 0.25]})).json()
    assert answer["choices"][0]["message"]["content"] == "both: hi you"
    assert answer["zfleet"]["model"] == "fake:math/2+sort/1"
    assert answer["zfleet"]["mixture"] == [
        {"expert": "math", "version": 2, "alpha": 0.75},
        {"expert": "sort", "version": 1, "alpha": [0.5, 0.25]},
    ]
    assert answer["zfleet"]["z"] == mix([fake_z(2), fake_z(3)], [0.75, (0.5, 0.25)]).digest
    assert answer["zfleet"]["dispatch"] is None


async def test_openais_client_sends_one_in_its_extra_body(stage: Stage) -> None:
    extra = {"zfleet": {"mixture": {"math@champion": 1.0}}}
    completion: Any = await stage.client.completions.create(
        model="fake", prompt="hi you", temperature=0, extra_body=extra
    )
    assert completion.choices[0].text == "math: hi you"
    assert completion.zfleet["z"] == fake_z(2).digest


async def test_a_stream_says_it_at_its_end(stage: Stage) -> None:
    text = (await ask(stage, {"math": 0.5}, stream=True)).text
    assert mix([fake_z(2)], [0.5]).digest in text


async def test_one_mixture_is_mixed_once_in_whatever_order(stage: Stage) -> None:
    zs = [
        (await ask(stage, mixture)).json()["zfleet"]["z"]
        for mixture in ({"math": 0.6, "sort": 0.4}, {"sort": 0.4, "math": 0.6})
    ]
    assert zs[0] == zs[1]
    assert (await stage.engine.stats()).known_z == 1
    assert len([call for call in stage.registry.calls if call.startswith("load ")]) == 2


@pytest.mark.parametrize(
    "missing", ["nobody", "math/9", "math@none", "", "a b", "other-01234567.math", "x" * 5000, "auto"]
)
async def test_an_unknown_expert_is_404_by_name(stage: Stage, missing: str) -> None:
    response = await ask(stage, {"math": 0.5, missing: 0.5})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "zfleet.mixture")
    assert repr(missing[:50])[:-1] in error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize(
    ("mixture", "said"),
    [
        ({}, "0 experts"),
        ({f"e{place}": 0.1 for place in range(500)}, "500 experts"),
        ({"math": 0.5, "math/2": 0.5}, "math/2 twice"),
        ({"math": "1"}, "zfleet.mixture.math"),
        ({"math": True}, "zfleet.mixture.math"),
        ({"math": None}, "zfleet.mixture.math"),
        ({"math": []}, "zfleet.mixture.math"),
        ({"math": [0.5, "x"]}, "zfleet.mixture.math"),
        ({"math": [0.5, 0.5, 0.5]}, "3 numbers, the base has 2 layers"),
        ({"math": 1e300}, "cannot be mixed"),
        (["math"], "zfleet.mixture"),
        ("math", "zfleet.mixture"),
    ],
)
async def test_a_bad_mixture_is_400(stage: Stage, mixture: object, said: str) -> None:
    response = await ask(stage, mixture)
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_an_alpha_that_is_not_finite_is_400(stage: Stage, number: str) -> None:
    body = f'{{"model": "fake", "prompt": "a", "zfleet": {{"mixture": {{"math": {number}}}}}}}'
    response = await stage.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400


async def test_a_mixture_and_an_expert_as_the_model_are_400(stage: Stage) -> None:
    for model in ("fake:math", "fake:auto"):
        response = await ask(stage, {"math": 0.5}, model=model)
        assert response.status_code == 400
        assert repr(model) in response.json()["error"]["message"]
    assert (await ask(stage, {"math": 0.5}, model="other")).status_code == 404


async def test_unknown_additions_are_refused_by_name(stage: Stage) -> None:
    response = await ask(stage, None, zfleet={"mixtures": {}})
    assert response.status_code == 400
    assert "zfleet.mixtures" in response.json()["error"]["message"]
    for nothing in ({}, {"mixture": None}, None):
        answer = (await ask(stage, None, zfleet=nothing)).json()
        assert answer["choices"][0]["message"]["content"] == "base: hi you"


async def test_experts_of_other_factors_are_refused_and_broken_ones_are_500(stage: Stage) -> None:
    stage.registry.add("foreign", fake_z(6, factors="others"))
    broken = stage.registry.add("broken", fake_z(5))
    del stage.registry.zs[broken.z_digest]
    for mixture in ({"foreign": 0.5}, {"foreign": 0.5, "math": 0.5}):
        response = await ask(stage, mixture)
        assert response.status_code == 400
        assert "cannot be mixed" in response.json()["error"]["message"]
    assert (await ask(stage, {"broken": 0.5, "math": 0.5})).status_code == 500


async def test_any_number_of_mixtures_is_kept_within_bounds(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of mixtures that round to one z."""
    monkeypatch.setattr(experts, "LOADED", 3)
    for place in range(8):
        for mixture in ({"math": 0.5 + 1e-12 * place}, {"math": 0.1 * place, "sort": 0.5}):
            assert (await ask(stage, mixture)).status_code == 200
    assert (await stage.engine.stats()).known_z == 3
    assert len(stage.service.experts._mixtures) == 3
    answer = (await ask(stage, {"math": 0.5})).json()
    assert answer["zfleet"]["z"] == mix([fake_z(2)], [0.5]).digest

"""Specs of evaluations: what is refused, and what a search in them becomes."""

from __future__ import annotations

from typing import Any

import pytest

from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.load import parse_spec
from zfleet.errors import SpecError


def minimal(**values: Any) -> dict[str, Any]:
    return {"name": "e", "tasks": {"sort": {"lab": "sort"}}, "experts": ["sort"], **values}


def parsed(**values: Any) -> EvaluateSpec:
    return parse_spec(minimal(**values), EvaluateSpec)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shots": [0]}, "shots.0 is 0: Input should be greater than or equal to 1"),
        ({"shots": []}, "shots is []"),
        ({"draws": [1, 1]}, "draws has a value twice: [1, 1]"),
        ({"experts": []}, "experts is []"),
        ({"experts": ["sort", "sort"]}, "experts has a value twice"),
        ({"tasks": {}}, "at least 1 item"),
        ({"searches": {"base": {}}}, "several ways are named 'base'"),
        ({"searches": {"x": {}}, "dispatchers": {"x": {}}}, "several ways are named 'x'"),
        ({"searches": {"cem": {"shots": 5}}}, "searches.cem has shots, which the evaluation sets: leave it out"),
        ({"searches": {"cem": {"populaton": 5}}}, "unknown key 'searches.cem.populaton': did you mean 'population'?"),
        ({"searches": {"cem": {"population": 1}}}, "searches.cem.population is 1"),
        ({"prompts": {"bare": "Think."}}, "prompts.bare is 'Think.': put {prompt} where the user's text goes"),
        ({"dispatchers": {"d": {"question": "kind?"}}}, "put {prompt} where the user's text goes"),
        (
            {"dispatchers": {"d": {"registered": "router/1", "classifier": "kind"}}},
            "registered is 'router/1', which brings its own: leave out classifier",
        ),
        ({"dispatchers": {"d": "not a reference"}}, "write a reference such as math, math/3 or math@champion"),
        ({"against": "cem"}, "against is 'cem', the ways are best-single, uniform"),
        ({"against": "best-prompt"}, "against is 'best-prompt'"),
        ({"against": "lora"}, "against is 'lora'"),
        ({"lora": {}}, "lora.method is missing"),
        ({"temperature": 1, "lora": {"method": "l"}}, "temperature is 1, but `zfleet compare` grades greedy answers"),
        ({"storage": "s3://bucket/runs"}, "storage is 's3://bucket/runs': searches keep their state in a folder"),
        ({"temperature": -1}, "temperature is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed(**values)
    assert message in caught.value.message
    assert caught.value.remedy


def test_a_search_cannot_skip_shots() -> None:
    reward = {"kind": "exact", "on_error": "skip"}
    tasks = {"mine": {"jsonl": "a.jsonl", "reward": reward}}
    assert parsed(tasks=tasks).searches == {}
    with pytest.raises(SpecError, match=r"task\.reward\.on_error is 'skip'"):
        parsed(tasks=tasks, searches={"cem": {}})


def test_a_search_is_what_zfleet_search_would_run() -> None:
    spec = parsed(
        searches={"wide": {"population": 64, "space": {"alphas": "layer"}}}, shots=[5], registry="sqlite:///r.db"
    )
    search = spec.search("wide", "sort", 5, draw=2, seed=7)
    assert (search.population, search.space.alphas) == (64, "layer")
    assert (search.shots, search.shots_seed, search.seed) == (5, 2, 7)
    assert (search.task, search.experts, search.registry) == (spec.tasks["sort"], ("sort",), "sqlite:///r.db")
    assert search.engine == spec.engine


def test_the_papers_code_can_be_one_of_the_ways() -> None:
    spec = parsed(searches={"paper": {"method": "reference"}})
    assert spec.search("paper", "sort", 10, draw=0, seed=0).finals == 0


def test_any_way_with_several_z_can_be_what_is_compared_with() -> None:
    for against in ("best-single", "uniform", "cem", "asks"):
        assert parsed(against=against, searches={"cem": {}}, dispatchers={"asks": {}}).against == against
    assert parsed(against="best-prompt", prompts={"p": "{prompt}!"}).against == "best-prompt"
    assert parsed(against="lora", lora={"method": "lora-r8"}).against == "lora"

"""Specs of calibrations: what each kind of dispatcher needs, and what it cannot use."""

from __future__ import annotations

from typing import Any

import pytest

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.load import parse_spec
from zfleet.config.serve import ServeSpec
from zfleet.errors import SpecError

LABELS = {"sort": {"expert": "sort/2", "task": {"lab": "sort"}}, "chat": {"expert": None, "task": {"lab": "add"}}}
CLASSIFIER = {"name": "router", "dispatcher": "classifier", "classifier": "kind", "labels": LABELS}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, ("classifier",)),
        ({"dispatcher": "soft"}, ("soft",)),
        ({"dispatcher": "soft", "classifier": None}, ("soft",)),
        ({"dispatcher": "prompt", "classifier": None, "examples": 0}, ("prompt",)),
        ({"dispatcher": "nearest", "classifier": None}, ("nearest",)),
        ({"dispatcher": "nearest", "classifier": None, "extend": "router@champion"}, ("nearest",)),
        ({"dispatcher": "few_shot", "classifier": None, "labels": {}, "tasks": {"exam": "mix"}}, ("few_shot",)),
        ({"dispatcher": "cascade", "steps": ["nearest", "classifier"]}, ("nearest", "classifier")),
    ],
)
def test_each_kind_can_be_written(changes: dict[str, Any], kinds: tuple[str, ...]) -> None:
    spec = parse_spec(CLASSIFIER | changes, CalibrateSpec)
    assert spec.kinds == kinds
    assert parse_spec(spec.model_dump(mode="json"), CalibrateSpec) == spec
    assert spec.engine.kind == "auto"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifier": None}, "classifier is missing"),
        ({"labels": {}}, "labels are for dispatchers that look at prompts"),
        ({"labels": {"sort": {"task": {"lab": "sort"}}}}, "labels.sort.expert is missing"),
        ({"labels": {"sort": {"expert": "a/b/c", "task": {"lab": "sort"}}}}, "labels.sort.expert is 'a/b/c'"),
        ({"dispatcher": "prompt"}, "classifier is 'kind'"),
        ({"dispatcher": "nearest", "classifier": None, "question": "what? {prompt}"}, "question is 'what"),
        ({"question": "what?"}, "must stand in it"),
        ({"dispatcher": "nearest", "classifier": None, "examples": 4}, "needs 5 or more"),
        ({"examples": 3}, "give 0, or 5 or more"),
        ({"dispatcher": "few_shot", "classifier": None, "labels": {}}, "tasks are for `few_shot`"),
        ({"dispatcher": "few_shot", "classifier": None, "tasks": {"exam": "mix"}}, "labels are for"),
        ({"tasks": {"exam": "mix"}}, "tasks are for `few_shot`"),
        ({"dispatcher": "cascade"}, "`cascade` has steps"),
        ({"steps": ["nearest", "classifier"]}, "`cascade` has steps"),
        ({"dispatcher": "cascade", "steps": ["classifier"]}, "give two or more"),
        ({"dispatcher": "cascade", "steps": ["classifier", "classifier"]}, "each once"),
        ({"extend": "router"}, "only `nearest` learns labels"),
        ({"risk": 0}, "risk is 0"),
        ({"certainty": 1.0}, "certainty is 1.0"),
        ({"dispatcher": "oracle"}, "dispatcher is 'oracle'"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(CLASSIFIER | changes, CalibrateSpec)
    assert message in caught.value.message


def test_a_service_has_one_way_to_choose() -> None:
    assert parse_spec({"dispatcher": "router@champion"}, ServeSpec).dispatcher == "router@champion"
    for own in ({"classifier": "kinds"}, {"labels": {"a": "b"}}, {"dispatch_prompt": "what? {prompt}"}):
        with pytest.raises(SpecError, match=f"brings its own: leave out {next(iter(own))}"):
            parse_spec({"dispatcher": "router", **own}, ServeSpec)
    with pytest.raises(SpecError, match="dispatcher is '/etc/passwd'"):
        parse_spec({"dispatcher": "/etc/passwd"}, ServeSpec)

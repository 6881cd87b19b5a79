"""What records keep of a spec: no password, at any depth, and everything else."""

from __future__ import annotations

import json

import pytest

from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.load import parse_spec
from zfleet.config.search import SearchSpec
from zfleet.config.specs import TrainSpec
from zfleet.errors import RegistryError
from zfleet_jobs.recorded_spec import check_recordable, recorded
from zfleet_jobs.train.run import run_train
from zfleet_registry.provenance.secrets import refuse_secrets

SPEC = {
    "name": "which",
    "tasks": {"sort": {"lab": "sort"}},
    "experts": ["sort", "add"],
    "searches": {"tpe": {"method": "tpe", "study": "postgresql://ann:hunter2@db:5432/studies"}},
}


def test_addresses_lose_their_secrets_and_nothing_else_changes() -> None:
    spec = parse_spec(SPEC | {"registry": "https://hunter2@mlflow:5000"}, EvaluateSpec)
    kept = recorded(spec)
    assert kept.registry == "https://mlflow:5000"
    assert kept.searches["tpe"]["study"] == "postgresql://db:5432/studies"
    assert kept.model_dump(exclude={"registry", "searches"}) == spec.model_dump(exclude={"registry", "searches"})
    refuse_secrets({"spec": kept.model_dump_json()})


def test_a_spec_without_secrets_is_recorded_as_it_is() -> None:
    spec = parse_spec(SPEC | {"searches": {}, "registry": "postgresql://ann@db/mlflow"}, EvaluateSpec)
    assert recorded(spec) == spec
    assert "ann@db" in json.dumps(recorded(spec).model_dump(mode="json"))


def test_a_secret_elsewhere_is_refused_before_the_work_and_not_shown() -> None:
    task = {"jsonl": "rows.jsonl", "template": "hf_" + "a" * 30 + " {prompt}"}
    spec = parse_spec(
        {"run": "secret", "base": {"model": "nowhere"}, "experts": [{"name": "a", "task": task}]}, TrainSpec
    )
    check_recordable(parse_spec(SPEC, EvaluateSpec))
    with pytest.raises(RegistryError, match="the spec contains a token of Hugging Face") as refused:
        run_train(spec)
    assert "aaa" not in str(refused.value)


@pytest.mark.parametrize("password", ["p[w", "p]w", "p/w", "p@w/", "p#w", "p?w"])
@pytest.mark.parametrize("key", ["study", "registry"])
def test_an_address_that_cannot_be_split_is_recorded_without_its_password(key: str, password: str) -> None:
    search = {"name": "mix", "experts": ["sort"], "task": {"lab": "sort"}}
    spec = parse_spec(search | {key: f"postgresql://ann:{password}@db/studies"}, SearchSpec)
    check_recordable(spec)
    assert getattr(recorded(spec), key) == "postgresql://***"

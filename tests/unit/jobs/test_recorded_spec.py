"""What records keep of a spec: no password, at any depth, and everything else."""

from __future__ import annotations

import json

from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.load import parse_spec
from zfleet_jobs.recorded_spec import recorded
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

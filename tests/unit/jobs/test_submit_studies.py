"""Studies of a submitted job: those that the cluster cannot keep, or that tell a password, are refused before."""

from __future__ import annotations

from typing import Any

import pytest

from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.search import SearchSpec
from zfleet.errors import SpecError
from zfleet_jobs.submit.places import check_places

KEPT: dict[str, Any] = {"storage": "/shared/runs", "registry": "http://mlflow:5000", "experts": ["a"], "name": "mix"}


def _search(**keys: Any) -> SearchSpec:
    return SearchSpec.model_validate(KEPT | {"task": {"lab": "reverse"}} | keys)


def _evaluate(**keys: Any) -> EvaluateSpec:
    return EvaluateSpec.model_validate(KEPT | {"tasks": {"reverse": {"lab": "reverse"}}} | keys)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("sqlite:///study.db", " is 'sqlite:///study.db': in the job's own folder, it would be lost with it"),
        ("sqlite+pysqlite:///runs/study.db", " is 'sqlite+pysqlite:///runs/study.db': in the job's own folder"),
        ("sqlite://", " is 'sqlite://': in the job's own folder"),
        ("postgresql://ann:hunter2@db/studies", " is postgresql://db/studies with a password"),
    ],
)
def test_studies_that_the_cluster_cannot_keep_are_refused(study: str, message: str) -> None:
    for key, job in (
        ("study", _search(study=study)),
        ("searches.cem.study", _evaluate(searches={"cem": {"study": study}})),
    ):
        with pytest.raises(SpecError) as refused:
            check_places(job)
        assert f"{key}{message}" in refused.value.message
        assert "hunter2" not in str(refused.value)
        assert key in refused.value.remedy


@pytest.mark.parametrize("study", [None, "postgresql://ann@db/studies", "sqlite:////shared/study.db"])
def test_studies_that_the_cluster_reaches_are_taken(study: str | None) -> None:
    check_places(_search(study=study))

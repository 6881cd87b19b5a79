"""Questions to MLflow's model registry: one model, one version, all of them page by page."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

    Found = TypeVar("Found", ModelVersion, RegisteredModel)

Result = TypeVar("Result")

PAGE = 1000
_ATTEMPTS = 10
# How sqlite, PostgreSQL, MySQL and MLflow itself say that a key exists by now.
_TAKEN = re.compile(r"UNIQUE constraint|duplicate key|Duplicate entry|Giving up after")


def find_model(client: MlflowClient, model: str) -> RegisteredModel | None:
    """The registered model with its aliases, or None."""
    return _unless_missing(lambda: client.get_registered_model(model))


def find_version(client: MlflowClient, model: str, version: int) -> ModelVersion | None:
    """One version, or None."""
    return _unless_missing(lambda: client.get_model_version(model, str(version)))


def newest_version(client: MlflowClient, model: str) -> ModelVersion | None:
    """The version with the highest number, or None where there are none."""
    found = client.search_model_versions(f"name = '{model}'", max_results=1, order_by=["version_number DESC"])
    return found[0] if found else None


def all_models(client: MlflowClient, where: str) -> Iterator[RegisteredModel]:
    """Every registered model that fits MLflow's filter, however many pages that takes."""
    token = None
    while True:
        page = client.search_registered_models(where, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def all_versions(client: MlflowClient, where: str) -> Iterator[ModelVersion]:
    """Every version that fits MLflow's filter, however many pages that takes."""
    # A fixed order: by default MLflow sorts by time of change, and a version that changes between
    # two pages would be read twice or not at all.
    order = ["name ASC", "version_number ASC"]
    token = None
    while True:
        page = client.search_model_versions(where, max_results=PAGE, order_by=order, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def create_version(client: MlflowClient, model: str, run_id: str, folder: str, tags: Mapping[str, str]) -> ModelVersion:
    """The next version of a model that need not exist yet, with all its tags in one transaction."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
    return _despite_races(
        lambda: client.create_model_version(model, source, run_id=run_id, tags=dict(tags), await_creation_for=0)
    )


def point_alias(client: MlflowClient, model: str, alias: str, version: int) -> None:
    """Point an alias at a version, whether or not it exists."""
    _despite_races(lambda: client.set_registered_model_alias(model, alias, str(version)))


def _despite_races(call: Callable[[], Result]) -> Result:
    """Call again where another process was faster: two that set a new alias at once both insert it,
    and MLflow gives up on a version number that was taken three times."""
    from mlflow.exceptions import MlflowException

    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except MlflowException as error:
            if attempt == _ATTEMPTS - 1 or not _TAKEN.search(str(error)):
                raise
            # Not all at the same moment again.
            time.sleep(random.uniform(0, 0.05 * (attempt + 1)))
    raise AssertionError("unreachable")


def _unless_missing(ask: Callable[[], Found]) -> Found | None:
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise

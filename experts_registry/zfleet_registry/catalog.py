"""Ask MLflow's model registry: for one model, for one version, or for all, page by page."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.entities.webhook import Webhook
    from mlflow.store.entities import PagedList

    Entity = TypeVar("Entity", ModelVersion, RegisteredModel, Webhook)

Result = TypeVar("Result")

PAGE = 1000
LONGEST_DESCRIPTION = 5000
"""Characters that MLflow's databases have for the description of a version."""
_ATTEMPTS = 10
_TAKEN = re.compile(r"UNIQUE constraint|duplicate key|Duplicate entry|Giving up after")
"""The messages of sqlite, PostgreSQL, MySQL and MLflow if a key exists already."""


def find_model(client: MlflowClient, model: str) -> RegisteredModel | None:
    """Return the registered model with its aliases, or None."""
    # To get one model by its name, MLflow reads all its versions, of which there may be thousands.
    found = client.search_registered_models(f"name = '{model}'", max_results=1)
    return found[0] if found else None


def find_version(client: MlflowClient, model: str, version: int) -> ModelVersion | None:
    """Return a version, or None."""
    return _unless_missing(lambda: client.get_model_version(model, str(version)))


def find_aliased(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias points at, with all its aliases; None if the model has no such alias."""
    from mlflow.exceptions import MlflowException

    try:
        return _unless_missing(lambda: client.get_model_version_by_alias(model, alias))
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE" and "not found" in str(error):
            return None
        raise


def newest_version(client: MlflowClient, model: str) -> ModelVersion | None:
    """Return the version with the highest number, or None if there is none."""
    # A search for versions reads the tags of all versions of all models, to leave out MLflow's prompts.
    found = find_model(client, model)
    return None if found is None else newest_of(found)


def newest_of(model: RegisteredModel) -> ModelVersion | None:
    """Return the version of a model with the highest number, or None if there is none."""
    return max(model.latest_versions, key=lambda version: int(version.version), default=None)


def all_models(client: MlflowClient, where: str) -> Iterator[RegisteredModel]:
    """Yield every registered model that matches MLflow's filter, from all pages."""
    return _all_pages(lambda token: client.search_registered_models(where, max_results=PAGE, page_token=token))


def model_pages(client: MlflowClient, where: str, size: int) -> Iterator[Sequence[RegisteredModel]]:
    """Yield pages of the registered models that match MLflow's filter, the one with the newest version first."""
    order = ["last_updated_timestamp DESC"]
    return _pages(
        lambda token: client.search_registered_models(where, max_results=size, order_by=order, page_token=token)
    )


def all_webhooks(client: MlflowClient) -> Iterator[Webhook]:
    """Yield every webhook, from all pages."""
    return _all_pages(lambda token: client.list_webhooks(page_token=token))


def all_versions(client: MlflowClient, where: str) -> Iterator[ModelVersion]:
    """Yield every version that matches MLflow's filter, from all pages."""
    return _all_pages(lambda token: version_page(client, where, PAGE, token))


def version_page(client: MlflowClient, where: str, size: int, token: str | None) -> PagedList[ModelVersion]:
    """Return a page of the versions that match MLflow's filter, sorted by model and number."""
    # By default MLflow sorts by time of change: a version that changes between two pages would be read twice or not at
    # all.
    order = ["name ASC", "version_number ASC"]
    return client.search_model_versions(where, max_results=size, order_by=order, page_token=token or None)


def create_version(
    client: MlflowClient,
    model: str,
    source: str,
    tags: Mapping[str, str],
    *,
    about: str,
    run_id: str | None = None,
    description: str | None = None,
) -> ModelVersion:
    """Create the next version of a model, with all its tags in one transaction. The model is created if needed.

    Args:
        client: MLflow's client.
        model: The model.
        source: Where the version's files are.
        tags: The version's tags.
        about: The description of the model, if it is created.
        run_id: The run that made the version.
        description: The description of the version.
    """
    from mlflow.exceptions import MlflowException

    def create() -> ModelVersion:
        return client.create_model_version(
            model, source, run_id=run_id, tags=dict(tags), description=description, await_creation_for=0
        )

    try:
        return _despite_races(create)
    except MlflowException as error:
        # A server that checks rights refuses a model that does not exist as it refuses one that nobody may write.
        hidden = error.error_code == "PERMISSION_DENIED" and find_model(client, model) is None
        if error.error_code != "RESOURCE_DOES_NOT_EXIST" and not hidden:
            raise
    try:
        client.create_registered_model(model, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return _despite_races(create)


def tag_version(client: MlflowClient, model: str, version: int, key: str, value: str) -> None:
    """Set a tag of a version."""
    _despite_races(lambda: client.set_model_version_tag(model, str(version), key, value))


def tag_model(client: MlflowClient, model: str, key: str, value: str) -> None:
    """Set a tag of a registered model."""
    _despite_races(lambda: client.set_registered_model_tag(model, key, value))


def point_alias(client: MlflowClient, model: str, alias: str, version: int) -> None:
    """Point an alias at a version. The alias is created if needed."""
    _despite_races(lambda: client.set_registered_model_alias(model, alias, str(version)))


def _despite_races(call: Callable[[], Result]) -> Result:
    """Call again if another process was faster.

    Two processes that set a new alias at once both insert it, and MLflow gives up if others take the next version
    number three times.
    """
    from mlflow.exceptions import MlflowException

    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except MlflowException as error:
            if attempt == _ATTEMPTS - 1 or not _TAKEN.search(str(error)):
                raise
            # Wait a random time, so that the processes do not collide again.
            time.sleep(random.uniform(0, 0.05 * (attempt + 1)))
    raise AssertionError("unreachable")


def _all_pages(read: Callable[[str | None], PagedList[Entity]]) -> Iterator[Entity]:
    return chain.from_iterable(_pages(read))


def _pages(read: Callable[[str | None], PagedList[Entity]]) -> Iterator[PagedList[Entity]]:
    token = None
    while True:
        page = read(token)
        yield page
        token = page.token
        if not token:
            return


def _unless_missing(ask: Callable[[], Entity]) -> Entity | None:
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise

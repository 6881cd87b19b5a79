"""Find versions with few requests: what a reference means, all versions, a page of them, or those of one z."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zfleet.config.names import CHAMPION
from zfleet_registry import artifacts, catalog
from zfleet_registry.references import Reference, check_slug, is_reserved, model_name
from zfleet_registry.tags import PREFIX
from zfleet_registry.version import ExpertVersion, from_mlflow, is_ours

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_OURS = f"source_path LIKE '%/{artifacts.FOLDER}/%'"
"""Leaves out the logs of experts, which are versions of models, too, and outnumber the experts. A filter by a tag would
have the database read the tags of everything; a version of another program may pass, and is left out afterwards.
"""

_NAMES = 50
"""In one filter, which a tracking server reads from the URL of a request."""


@dataclass(frozen=True)
class Page:
    """A page of a list.

    Attributes:
        versions: Sorted by qualified name and number.
        after: Where the next page begins; empty if this is the last.
    """

    versions: tuple[ExpertVersion, ...]
    after: str


def find(client: MlflowClient, reference: Reference, slug: str) -> ExpertVersion | None:
    """Return the version that a reference means, in one request if it names a version or an alias that exists."""
    model = model_name(slug, reference.name)
    if reference.version is not None:
        return _with_aliases(catalog.find_version(client, model, reference.version))
    alias = reference.alias or CHAMPION
    found = None if is_reserved(alias) else catalog.find_aliased(client, model, alias)
    if found is not None or reference.alias is not None:
        return _with_aliases(found)
    known = catalog.find_model(client, model)
    newest = None if known is None else catalog.newest_of(known)
    return None if known is None or newest is None else from_mlflow(newest, known.aliases)


def all_of(client: MlflowClient, base_slug: str | None) -> list[ExpertVersion]:
    """Return every version of all that a base, or any base, has, sorted by base, name and version."""
    models = _of_base(base_slug) if base_slug else ""
    aliases = {model.name: model.aliases for model in catalog.all_models(client, models)}
    records = catalog.all_versions(client, models or _OURS)
    versions = _versions(records, aliases, base_slug)
    return sorted(versions, key=lambda version: (version.base_slug, version.name, version.version))


def page(client: MlflowClient, base_slug: str | None, limit: int, after: str) -> Page:
    """Return a page of the versions that a base, or any base, has.

    Args:
        client: MLflow's.
        base_slug: The base; None: any.
        limit: The most versions.
        after: ``Page.after`` of the page before; empty: the first page.
    """
    wanted = f"{_OURS} AND {_of_base(base_slug)}" if base_slug else _OURS
    records = catalog.version_page(client, wanted, limit, after)
    aliases = _aliases_of(client, {record.name for record in records})
    token = records.token or ""
    # A database gives bytes, a tracking server gives text.
    after = token.decode("ascii") if isinstance(token, bytes) else token
    return Page(tuple(_versions(records, aliases, base_slug)), after)


def of_z(client: MlflowClient, name: str, z_digest: str) -> ExpertVersion | None:
    """Return the newest version of an expert that has exactly this z, of any base; None if there is none."""
    wanted = f"tags.`{PREFIX}z_digest` = '{z_digest}' AND tags.`{PREFIX}name` = '{name}'"
    records = [record for record in catalog.all_versions(client, wanted) if is_ours(record)]
    newest = max(records, key=lambda record: int(record.version), default=None)
    return None if newest is None else _with_aliases(catalog.find_version(client, newest.name, int(newest.version)))


def bases_of(client: MlflowClient, name: str) -> set[str]:
    """Return the slugs of the bases that have an expert of this name."""
    models = catalog.all_models(client, f"name LIKE '%.{name}'")
    return {
        model.name.removesuffix(f".{name}")
        for model in models
        for newest in model.latest_versions
        if is_ours(newest) and newest.tags.get(f"{PREFIX}name") == name
    }


def _of_base(base_slug: str) -> str:
    check_slug(base_slug)
    # '_' in a slug is a wildcard of LIKE, so the database may also return versions of other bases.
    return f"name LIKE '{base_slug}.%'"


def _versions(
    records: Iterable[ModelVersion], aliases: Mapping[str, Mapping[str, object]], base_slug: str | None
) -> list[ExpertVersion]:
    found = [from_mlflow(record, aliases.get(record.name, {})) for record in records if is_ours(record)]
    return [version for version in found if base_slug in (None, version.base_slug)]


def _aliases_of(client: MlflowClient, models: Iterable[str]) -> dict[str, Mapping[str, object]]:
    names, found = sorted(models), {}
    for start in range(0, len(names), _NAMES):
        some = ", ".join(f"'{name}'" for name in names[start : start + _NAMES])
        found.update({model.name: model.aliases for model in catalog.all_models(client, f"name IN ({some})")})
    return found


def _with_aliases(record: ModelVersion | None) -> ExpertVersion | None:
    """Read a record of a request for one version, which has its aliases."""
    return None if record is None else from_mlflow(record, dict.fromkeys(record.aliases, record.version))

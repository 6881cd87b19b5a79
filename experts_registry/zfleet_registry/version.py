"""A version of an expert or a dispatcher, and the MLflow tags that store it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from zfleet.errors import RegistryError
from zfleet_registry.provenance import Provenance, Registration
from zfleet_registry.references import model_name
from zfleet_registry.tags import PREFIX, joined_tags, split_tags

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FORMAT = "zfleet-expert/1"
_FIRST = ("task", "metrics", "intervals", "parents", "kind", "seed", "licence")


@dataclass(frozen=True)
class ExpertVersion:
    """A version of an expert, a mixture or a dispatcher. Only its aliases can change.

    Attributes:
        name: The expert or the dispatcher, such as ``math``.
        base_slug: The base, such as ``lab-1a2b3c4d``.
        version: The number of the version: 1, 2, ...
        aliases: The aliases that point at the version now, sorted.
        z_digest: The digest of its z; empty for a dispatcher.
        created: When the version was registered (UTC).
        run_id: The run that made the z.
        provenance: The origin of the z.
        artifact: The path of its file inside the run's artifacts.
        artifact_sha256: The sha256 of the whole file.
        registration: Who registered it, when and with which packages; None for versions of older registries.
    """

    name: str
    base_slug: str
    version: int
    aliases: tuple[str, ...]
    z_digest: str
    created: datetime
    run_id: str
    provenance: Provenance
    artifact: str
    artifact_sha256: str
    registration: Registration | None = None

    @property
    def is_dispatcher(self) -> bool:
        """Whether it is a dispatcher, which has no z."""
        return self.provenance.kind == "dispatcher"

    @property
    def reference(self) -> str:
        """The reference to this version, such as ``math/3``."""
        return f"{self.name}/{self.version}"

    @property
    def qualified(self) -> str:
        """The reference qualified by the base, such as ``lab-1a2b3c4d.math/3``."""
        return f"{model_name(self.base_slug, self.name)}/{self.version}"


def to_tags(
    name: str, base_slug: str, provenance: Provenance, registration: Registration, artifact: str, sha256: str
) -> dict[str, str]:
    """Return the tags that MLflow stores with a version, created with it in one transaction."""
    own = {"format": FORMAT, "name": name, "base_slug": base_slug, "artifact": artifact, "artifact_sha256": sha256}
    known = provenance.to_strings()
    # MLflow's page lists tags in this order: first what people look for.
    first = {key: known[key] for key in _FIRST if key in known}
    return split_tags(first | known | own | {"registration": registration.to_json()})


def is_ours(record: ModelVersion) -> bool:
    """Return whether zfleet registered a version: an MLflow server may have models of other programs."""
    return bool(record.tags.get(f"{PREFIX}format") == FORMAT)


def from_mlflow(
    record: ModelVersion, aliases: Mapping[str, object], added: Mapping[str, str] | None = None
) -> ExpertVersion:
    """Read a version from MLflow's record.

    Args:
        record: MLflow's record of the version.
        aliases: {alias: version} of the registered model.
        added: Texts to read in place of tags, for a record that lacks them.

    Raises:
        RegistryError: The version was not registered by zfleet, or its tags were edited.
    """
    try:
        texts = joined_tags(record.tags) | dict(added or {})
        if texts["format"] != FORMAT:
            raise ValueError(f"format {texts['format']!r} is not {FORMAT!r}")
        version = int(record.version)
        provenance = Provenance.from_strings(texts)
        return ExpertVersion(
            name=texts["name"],
            base_slug=texts["base_slug"],
            version=version,
            aliases=tuple(sorted(alias for alias, number in aliases.items() if int(str(number)) == version)),
            z_digest=provenance.z_digest,
            created=datetime.fromtimestamp(record.creation_timestamp / 1000, UTC),
            run_id=record.run_id or "",
            provenance=provenance,
            artifact=texts["artifact"],
            artifact_sha256=texts["artifact_sha256"],
            registration=Registration.from_json(texts["registration"]) if "registration" in texts else None,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise RegistryError(
            f"version {record.version} of {record.name} has no complete zfleet tags: {error}",
            "register the expert again: zfleet did not register this version, or its tags were edited",
        ) from error

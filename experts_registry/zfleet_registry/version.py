"""One version of one expert, as the registry knows it, and the MLflow tags that hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from zfleet.errors import RegistryError
from zfleet_registry.provenance import Provenance
from zfleet_registry.references import model_name

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FORMAT = "zfleet-expert/1"
_PREFIX = "zfleet."
# Tag values have limits (100,000 characters in MLflow 3, less in older servers and some databases),
# so that long ones, above all the spec, go into numbered tags: zfleet.spec, zfleet.spec.1, ...
_CHUNK = 4000


@dataclass(frozen=True)
class ExpertVersion:
    """A version. Only its aliases ever change.

    Attributes:
        name: The expert, such as ``math``.
        base_slug: Its base, such as ``lab-1a2b3c4d``.
        version: 1, 2, ...
        aliases: Aliases that point at it now, sorted.
        z_digest: Digest of its z.
        created: When it was registered (UTC).
        run_id: The run that made it.
        provenance: Where it comes from.
        artifact: Path of its file inside the run's artifacts.
        artifact_sha256: Digest of that whole file.
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

    @property
    def reference(self) -> str:
        """``math/3``."""
        return f"{self.name}/{self.version}"

    @property
    def qualified(self) -> str:
        """``lab-1a2b3c4d.math/3``."""
        return f"{model_name(self.base_slug, self.name)}/{self.version}"


def to_tags(name: str, base_slug: str, provenance: Provenance, artifact: str, sha256: str) -> dict[str, str]:
    """What MLflow stores with a version: created together with it, in one transaction."""
    own = {"format": FORMAT, "name": name, "base_slug": base_slug, "artifact": artifact, "artifact_sha256": sha256}
    tags = {}
    for key, text in (own | provenance.to_strings()).items():
        for index, start in enumerate(range(0, len(text), _CHUNK)):
            tags[_PREFIX + (f"{key}.{index}" if index else key)] = text[start : start + _CHUNK]
    return tags


def is_ours(found: ModelVersion) -> bool:
    """Whether zfleet registered it: an MLflow server may hold models of other people."""
    return bool(found.tags.get(f"{_PREFIX}format") == FORMAT)


def from_mlflow(found: ModelVersion, aliases: Mapping[str, object]) -> ExpertVersion:
    """Read a version back.

    Args:
        found: MLflow's record of it.
        aliases: {alias: version} of its registered model.

    Raises:
        RegistryError: It was not registered by zfleet, or its tags were changed by hand.
    """
    try:
        texts = _joined(found.tags)
        if texts["format"] != FORMAT:
            raise ValueError(f"format {texts['format']!r} is not {FORMAT!r}")
        version = int(found.version)
        return ExpertVersion(
            name=texts["name"],
            base_slug=texts["base_slug"],
            version=version,
            aliases=tuple(sorted(alias for alias, number in aliases.items() if int(str(number)) == version)),
            z_digest=texts["z_digest"],
            created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
            run_id=found.run_id or "",
            provenance=Provenance.from_strings(texts),
            artifact=texts["artifact"],
            artifact_sha256=texts["artifact_sha256"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise RegistryError(
            f"version {found.version} of {found.name} has no complete zfleet tags: {error}",
            "it was not registered by zfleet, or its tags were edited: register the expert again",
        ) from error


def _joined(tags: Mapping[str, str]) -> dict[str, str]:
    texts = {}
    for key in tags:
        if key.startswith(_PREFIX) and "." not in (short := key.removeprefix(_PREFIX)):
            texts[short] = tags[key]
            index = 1
            while (more := tags.get(f"{key}.{index}")) is not None:
                texts[short] += more
                index += 1
    return texts

"""Where an expert comes from: enough to make it again, and to trust it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from zfleet.config.names import Alpha
from zfleet.errors import RegistryError
from zfleet.svf.zvector import ZVector

Kind = Literal["expert", "mixture"]


@dataclass(frozen=True)
class Parent:
    """One expert of a mixture.

    Attributes:
        reference: Name and version, such as ``math/3``.
        z_digest: Digest of its z.
        alpha: Its coefficient: one number, or one per layer.
    """

    reference: str
    z_digest: str
    alpha: Alpha


@dataclass(frozen=True)
class Provenance:
    """What is recorded with every version.

    Attributes:
        base: Fingerprint of the base.
        factors: Digest of the factors that the z belongs to.
        targets: Which matrices were chosen.
        z_digest: Digest of the z.
        task: The task it was trained on; empty for a mixture.
        data_digest: Digest of the task's data.
        spec: The job spec, as JSON.
        code_version: Version or commit of the code that trained it.
        metrics: Results worth keeping with the version.
        parents: A mixture's experts.
        kind: ``expert`` or ``mixture``.
        carried_from: The version of another base that it was carried from; empty where it was trained on this one.
        imported_from: Name and sha256 of the reference implementation's file that it was imported from; else empty.
    """

    base: str
    factors: str
    targets: str
    z_digest: str
    task: str = ""
    data_digest: str = ""
    spec: str = ""
    code_version: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    kind: Kind = "expert"
    carried_from: str = ""
    imported_from: str = ""

    @classmethod
    def of(
        cls,
        z: ZVector,
        *,
        task: str = "",
        data_digest: str = "",
        spec: str = "",
        code_version: str = "",
        metrics: Mapping[str, float] | None = None,
        parents: tuple[Parent, ...] = (),
        kind: Kind = "expert",
    ) -> Provenance:
        """The provenance of ``z``: what the z itself knows is taken from it."""
        return cls(
            z.base,
            z.factors,
            z.targets,
            z.digest,
            task=task,
            data_digest=data_digest,
            spec=spec,
            code_version=code_version,
            metrics=dict(metrics or {}),
            parents=parents,
            kind=kind,
        )

    def check(self, z: ZVector) -> None:
        """Refuse a provenance that is not the z's own.

        Raises:
            RegistryError: Names the first field that differs, or a mixture without parents.
        """
        facts = {"base": z.base, "factors": z.factors, "targets": z.targets, "z_digest": z.digest}
        for name, fact in facts.items():
            if getattr(self, name) != fact:
                raise RegistryError(
                    f"provenance has {name} {getattr(self, name)!r}, the z has {fact!r}", "use Provenance.of(z, ...)"
                )
        if (self.kind == "mixture") != bool(self.parents):
            raise RegistryError(
                f"provenance of kind {self.kind!r} has {len(self.parents)} parents",
                "a mixture names its experts as parents, an expert has none",
            )

    def to_strings(self) -> dict[str, str]:
        """One string per field that is not empty; numbers survive exactly."""
        values = asdict(self) | {"metrics": dict(self.metrics), "parents": [asdict(parent) for parent in self.parents]}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items() if value}

    @classmethod
    def from_strings(cls, texts: Mapping[str, str]) -> Provenance:
        """Read what ``to_strings`` wrote; other keys are ignored.

        Raises:
            ValueError, KeyError, TypeError: It was not written by ``to_strings``.
        """
        values: dict[str, Any] = {item.name: texts[item.name] for item in fields(cls) if item.name in texts}
        if "metrics" in values:
            values["metrics"] = json.loads(values["metrics"])
        if "parents" in values:
            values["parents"] = tuple(_parent(**parent) for parent in json.loads(values["parents"]))
        return cls(**values)


def _parent(reference: str, z_digest: str, alpha: float | list[float]) -> Parent:
    return Parent(reference, z_digest, tuple(alpha) if isinstance(alpha, list) else alpha)

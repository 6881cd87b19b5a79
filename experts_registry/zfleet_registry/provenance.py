"""The provenance of an expert: all that is needed to train it again, and to trust it."""

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
        z_digest: The digest of its z.
        alpha: Its coefficient: one number, or one per layer.
    """

    reference: str
    z_digest: str
    alpha: Alpha


@dataclass(frozen=True)
class Provenance:
    """The record that is stored with every version. Fields that do not apply are empty.

    Attributes:
        base: The fingerprint of the base.
        factors: The digest of the factors that the z belongs to.
        targets: The matrices that the z scales, as in a spec.
        z_digest: The digest of the z.
        task: The task that the expert was trained on; empty for a mixture.
        data_digest: The digest of the task's data.
        spec: The job spec, as JSON.
        code_version: The version or commit of the code that trained the expert.
        metrics: Results to keep with the version.
        parents: The experts of a mixture.
        kind: ``expert`` or ``mixture``.
        carried_from: The version of another base from which this version was carried.
        imported_from: Name and sha256 of the reference implementation's file from which this version was imported.
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
        """Make the provenance of ``z``: base, factors, targets and digest are taken from the z itself."""
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
        """Refuse a provenance that belongs to another z.

        Raises:
            RegistryError: A field differs from the z (it is named), or kind and parents contradict each other.
        """
        facts = {"base": z.base, "factors": z.factors, "targets": z.targets, "z_digest": z.digest}
        for name, fact in facts.items():
            if getattr(self, name) != fact:
                raise RegistryError(
                    f"provenance has {name} {getattr(self, name)!r}, but the z has {fact!r}",
                    "use Provenance.of(z, ...)",
                )
        if (self.kind == "mixture") != bool(self.parents):
            raise RegistryError(
                f"provenance of kind {self.kind!r} has {len(self.parents)} parents",
                "a mixture names its experts as parents, an expert has none",
            )

    def to_strings(self) -> dict[str, str]:
        """Return a string for each field that is not empty. Numbers keep their exact values."""
        values = asdict(self) | {"metrics": dict(self.metrics), "parents": [asdict(parent) for parent in self.parents]}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items() if value}

    @classmethod
    def from_strings(cls, texts: Mapping[str, str]) -> Provenance:
        """Read the strings that ``to_strings`` wrote. Other keys are ignored.

        Raises:
            ValueError, KeyError, TypeError: The strings were not written by ``to_strings``.
        """
        values: dict[str, Any] = {item.name: texts[item.name] for item in fields(cls) if item.name in texts}
        if "metrics" in values:
            values["metrics"] = json.loads(values["metrics"])
        if "parents" in values:
            values["parents"] = tuple(_parent(**parent) for parent in json.loads(values["parents"]))
        return cls(**values)


def _parent(reference: str, z_digest: str, alpha: float | list[float] | dict[str, float]) -> Parent:
    return Parent(reference, z_digest, tuple(alpha) if isinstance(alpha, list) else alpha)

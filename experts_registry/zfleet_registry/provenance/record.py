"""The provenance of an expert or a dispatcher: all that is needed to make it again, and to trust it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.names import Alpha
from zfleet.errors import RegistryError
from zfleet.svf.zvector import ZVector

Kind = Literal["expert", "mixture", "transfer", "dispatcher"]

_PARENTS: Mapping[Kind, tuple[int, int]] = {
    "expert": (0, 1),
    "mixture": (1, sys.maxsize),
    "transfer": (1, 1),
    "dispatcher": (1, sys.maxsize),
}
"""The fewest and the most parents of each kind."""

_EMPTY: tuple[object, ...] = (None, "", {}, [], ())

_WITHOUT_Z = {"targets": "", "z_digest": ""}
"""Fields that a dispatcher does not have."""


@dataclass(frozen=True)
class Parent:
    """A version that another one was made from: an expert of a mixture or a dispatcher, or what was trained
    further or transferred.

    Attributes:
        reference: Name and version, such as ``math/3``.
        z_digest: The digest of its z.
        alpha: Its coefficient: one number, or one per layer; 1 outside mixtures.
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
        task: The task that the expert was trained on; empty for others.
        data_digest: The digest of the task's data, or of a dispatcher's validation prompts.
        spec: The job spec, as JSON.
        code_version: The version or commit of the code that trained the expert.
        metrics: Results to keep with the version.
        parents: The experts of a mixture or a dispatcher; of an expert the version that its training began at, if it
            was not the base; of a transfer the version of the other base.
        kind: ``expert``, ``mixture``, ``transfer`` or ``dispatcher``.
        source_base: Of a transfer, the fingerprint of the base that its values were trained on.
        carried_from: The version of another base from which this version was carried.
        imported_from: Name and digest of the file or folder from which this version was imported.
        dispatcher_digest: ``StoredDispatcher.digest`` of a dispatcher.
        task_digest: The digest of how the task asks and grades: its spec and its reward.
        parametrisation: How the training made z from its parameters.
        seed: The seed of the training or the search.
        intervals: {metric: the low and the high end of its 95 % interval}, for metrics that have one.
        licence: Of the base, as its files say it; empty if they do not.
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
    source_base: str = ""
    carried_from: str = ""
    imported_from: str = ""
    dispatcher_digest: str = ""
    task_digest: str = ""
    parametrisation: str = ""
    seed: int | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    licence: str = ""

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
        source_base: str = "",
        task_digest: str = "",
        parametrisation: str = "",
        seed: int | None = None,
        intervals: Mapping[str, tuple[float, float]] | None = None,
        licence: str = "",
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
            source_base=source_base,
            task_digest=task_digest,
            parametrisation=parametrisation,
            seed=seed,
            intervals=dict(intervals or {}),
            licence=licence,
        )

    @classmethod
    def of_dispatcher(
        cls, dispatcher: StoredDispatcher, *, spec: str, code_version: str, metrics: Mapping[str, float]
    ) -> Provenance:
        """Make the provenance of a dispatcher: base, factors, experts and data are taken from the dispatcher itself."""
        document = dispatcher.document
        return cls(
            document.base,
            document.factors,
            targets="",
            z_digest="",
            data_digest="" if document.facts is None else document.facts.data_digest,
            spec=spec,
            code_version=code_version,
            metrics=dict(metrics),
            parents=tuple(Parent(reference, z_digest, 1.0) for reference, z_digest in document.experts.items()),
            kind="dispatcher",
            dispatcher_digest=dispatcher.digest,
        )

    def check(self, content: ZVector | StoredDispatcher) -> None:
        """Refuse a provenance that belongs to another z or another dispatcher.

        Raises:
            RegistryError: A field differs from the content (it is named), or kind and parents contradict each other.
        """
        for name, fact in facts_of(content).items():
            if getattr(self, name) != fact:
                raise RegistryError(
                    f"provenance has {name} {getattr(self, name)!r}, but what is registered has {fact!r}",
                    "use Provenance.of(z, ...) or Provenance.of_dispatcher(dispatcher, ...)",
                )
        fewest, most = _PARENTS[self.kind]
        if not fewest <= len(self.parents) <= most:
            raise RegistryError(
                f"provenance of kind {self.kind!r} has {len(self.parents)} parents",
                "a mixture and a dispatcher name their experts as parents, an expert at most the version that its "
                "training began at, a transfer the version of the other base",
            )
        if (self.kind == "transfer") != bool(self.source_base):
            raise RegistryError(
                f"provenance of kind {self.kind!r} has source_base {self.source_base!r}",
                "a transfer, and nothing else, names the base that its values were trained on",
            )

    def to_strings(self) -> dict[str, str]:
        """Return a string for each field that is not empty. Numbers keep their exact values."""
        values = asdict(self) | {"metrics": dict(self.metrics), "parents": [asdict(parent) for parent in self.parents]}
        return {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in values.items()
            if value not in _EMPTY
        }

    @classmethod
    def from_strings(cls, texts: Mapping[str, str]) -> Provenance:
        """Read the strings that ``to_strings`` wrote. Other keys are ignored.

        Raises:
            ValueError, KeyError, TypeError: The strings were not written by ``to_strings``.
        """
        values: dict[str, Any] = {item.name: texts[item.name] for item in fields(cls) if item.name in texts}
        if values.get("kind") == "dispatcher":
            values |= _WITHOUT_Z
        for name in ("metrics", "seed"):
            if name in values:
                values[name] = json.loads(values[name])
        if "intervals" in values:
            values["intervals"] = {name: (low, high) for name, (low, high) in json.loads(values["intervals"]).items()}
        if "parents" in values:
            values["parents"] = tuple(_parent(**parent) for parent in json.loads(values["parents"]))
        return cls(**values)


def facts_of(content: ZVector | StoredDispatcher) -> dict[str, str]:
    """Return the fields of a provenance that follow from what is registered."""
    if isinstance(content, ZVector):
        facts = {"base": content.base, "factors": content.factors, "targets": content.targets}
        return facts | {"z_digest": content.digest}
    document = content.document
    return {"base": document.base, "factors": document.factors, "dispatcher_digest": content.digest, **_WITHOUT_Z}


def _parent(reference: str, z_digest: str, alpha: float | list[float] | dict[str, float]) -> Parent:
    return Parent(reference, z_digest, tuple(alpha) if isinstance(alpha, list) else alpha)

"""What differs between two versions: z by layer, spec, data and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zfleet.errors import WrongBase
from zfleet_registry.version import ExpertVersion

if TYPE_CHECKING:
    from zfleet.svf.difference import LayerDifference
    from zfleet_registry.registry import ExpertRegistry

_COMPARED = (
    "base", "factors", "targets", "z_digest", "kind", "task", "task_digest", "data_digest", "parametrisation", "seed",
    "code_version", "licence",
)  # fmt: skip


@dataclass(frozen=True)
class FieldDifference:
    """A value that differs; ``-`` if a version does not have it."""

    field: str
    first: str
    second: str


@dataclass(frozen=True)
class ScoreDifference:
    """A metric of both.

    Attributes:
        metric: The metric.
        first, second: Its values; None if a version does not have it.
    """

    metric: str
    first: float | None
    second: float | None


@dataclass(frozen=True)
class VersionComparison:
    """Two versions.

    Attributes:
        fields: Fields of the provenance that differ.
        spec: Keys of the spec that differ, ``a.b.c``.
        scores: All metrics of both.
        layers: Their z by layer; None if these are not comparable.
        incomparable: Why not; empty if they are.
    """

    fields: tuple[FieldDifference, ...]
    spec: tuple[FieldDifference, ...]
    scores: tuple[ScoreDifference, ...]
    layers: tuple[LayerDifference, ...] | None
    incomparable: str


def compare_versions(registry: ExpertRegistry, first: ExpertVersion, second: ExpertVersion) -> VersionComparison:
    """Compare two versions of one registry.

    Raises:
        CorruptArtifact: The file of one is damaged.
    """
    from zfleet.svf.difference import layer_differences

    layers, incomparable = None, ""
    if first.is_dispatcher or second.is_dispatcher:
        incomparable = "a dispatcher has no z"
    else:
        try:
            layers = tuple(layer_differences(registry.load(first), registry.load(second)))
        except WrongBase as error:
            incomparable = error.message
    mine, theirs = first.provenance, second.provenance
    return VersionComparison(
        fields=_differing(*({name: getattr(one, name) for name in _COMPARED} for one in (mine, theirs))),
        spec=_differing(_flat(_read(mine.spec)), _flat(_read(theirs.spec))),
        scores=tuple(
            ScoreDifference(name, mine.metrics.get(name), theirs.metrics.get(name))
            for name in sorted({*mine.metrics, *theirs.metrics})
        ),
        layers=layers,
        incomparable=incomparable,
    )


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[FieldDifference, ...]:
    names = [*first, *(name for name in second if name not in first)]
    pairs = [(name, _shown(first.get(name)), _shown(second.get(name))) for name in names]
    return tuple(FieldDifference(*pair) for pair in pairs if pair[1] != pair[2])


def _shown(value: Any) -> str:
    return "-" if value in (None, "") else value if isinstance(value, str) else json.dumps(value)


def _read(spec: str) -> Any:
    try:
        return json.loads(spec) if spec else {}
    except ValueError:
        return spec


def _flat(value: Any, name: str = "spec") -> dict[str, Any]:
    """Name every value of nested data by its path; items of lists by their number."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    flat = {
        path: one
        for key, part in items
        for path, one in _flat(part, str(key) if name == "spec" else f"{name}.{key}").items()
    }
    return flat or {name: value}

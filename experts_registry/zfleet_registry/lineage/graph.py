"""Where versions come from, and what was made of them: parents, mixtures, transfers, dispatchers, carried experts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from zfleet.config.names import Alpha
from zfleet.errors import RegistryError
from zfleet_registry import references
from zfleet_registry.version import ExpertVersion

Relation = Literal["trained further", "mixed", "transferred", "dispatched", "carried"]

_RELATIONS: Mapping[str, Relation] = {
    "expert": "trained further",
    "mixture": "mixed",
    "transfer": "transferred",
    "dispatcher": "dispatched",
}


@dataclass(frozen=True)
class Node:
    """A version in a lineage.

    Attributes:
        version: Qualified by its base.
        kind: The kind of its provenance; ``unknown`` if the registry does not have it.
        aliases: Its present aliases.
        z_digest: The digest of its z.
        generation: 0 without parents in this lineage, otherwise one more than its latest parent.
    """

    version: str
    kind: str
    aliases: tuple[str, ...]
    z_digest: str
    generation: int


@dataclass(frozen=True)
class Edge:
    """A version that another one was made from.

    Attributes:
        parent, child: Qualified by their bases.
        relation: How.
        alpha: The parent's coefficient in a mixture; 1 otherwise.
    """

    parent: str
    child: str
    relation: Relation
    alpha: Alpha


@dataclass(frozen=True)
class Lineage:
    """Versions, oldest generation first, and how they are related."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def lineage_of(versions: Iterable[ExpertVersion], chosen: Iterable[ExpertVersion]) -> Lineage:
    """Find all ancestors and all descendants of some versions.

    Args:
        versions: All of a registry.
        chosen: The versions to begin at.

    Raises:
        RegistryError: A version is its own ancestor.
    """
    known = {version.qualified: version for version in versions}
    edges = [edge for version in known.values() for edge in _edges(version)]
    begin = [version.qualified for version in chosen]
    family = _reached(begin, [(edge.parent, edge.child) for edge in edges])
    family |= _reached(begin, [(edge.child, edge.parent) for edge in edges])
    inside = [edge for edge in edges if edge.parent in family and edge.child in family]
    generations = _generations(family, inside)
    nodes = [_node(name, known.get(name), generations[name]) for name in sorted(family)]
    return Lineage(tuple(sorted(nodes, key=lambda node: (node.generation, node.version))), tuple(inside))


def refuse_future_parents(base_slug: str, name: str, newest: int, parents: Sequence[str]) -> None:
    """Refuse a new version that names itself, or a later one of its own name, as a parent.

    Args:
        base_slug: The base of the new version.
        name: Its name.
        newest: The newest version of this name; 0 if there is none.
        parents: The references that its provenance names.

    Raises:
        RegistryError: Names the parent.
    """
    for reference in parents:
        parsed = references.parse(reference)
        own = (parsed.base_slug or base_slug, parsed.name) == (base_slug, name)
        if own and parsed.version is not None and parsed.version > newest:
            raise RegistryError(
                f"{name} names {reference} as a parent, which does not exist before it",
                "name versions that exist: lineage has no cycles",
            )


def _edges(version: ExpertVersion) -> list[Edge]:
    provenance = version.provenance
    relation = _RELATIONS[provenance.kind]
    edges = [
        Edge(_qualified(parent.reference, version.base_slug), version.qualified, relation, parent.alpha)
        for parent in provenance.parents
    ]
    if provenance.carried_from:
        edges.append(Edge(provenance.carried_from, version.qualified, "carried", 1.0))
    return edges


def _qualified(reference: str, base_slug: str) -> str:
    parsed = references.parse(reference)
    return reference if parsed.base_slug else references.model_name(base_slug, reference)


def _reached(begin: Iterable[str], pairs: Iterable[tuple[str, str]]) -> set[str]:
    """Follow pairs (from, to) from some names."""
    after: dict[str, list[str]] = {}
    for first, second in pairs:
        after.setdefault(first, []).append(second)
    found, waiting = set(begin), list(begin)
    while waiting:
        for name in after.get(waiting.pop(), []):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def _generations(family: Iterable[str], edges: Iterable[Edge]) -> dict[str, int]:
    parents: dict[str, set[str]] = {name: set() for name in family}
    for edge in edges:
        parents[edge.child].add(edge.parent)
    generations: dict[str, int] = {}
    try:
        for name in TopologicalSorter(parents).static_order():
            generations[name] = 1 + max((generations[parent] for parent in parents[name]), default=-1)
    except CycleError as error:
        raise RegistryError(
            f"a version is its own ancestor: {' > '.join(error.args[1])}",
            "their tags were edited, or parents were named before they existed; register one of them again",
        ) from error
    return generations


def _node(name: str, version: ExpertVersion | None, generation: int) -> Node:
    if version is None:
        return Node(name, "unknown", (), "", generation)
    return Node(name, version.provenance.kind, version.aliases, version.z_digest, generation)

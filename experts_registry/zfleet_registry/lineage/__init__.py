"""How versions are related, and how two of them differ."""

from zfleet_registry.lineage.comparison import VersionComparison, compare_versions
from zfleet_registry.lineage.graph import Edge, Lineage, Node, lineage_of, refuse_future_parents

__all__ = [
    "Edge",
    "Lineage",
    "Node",
    "VersionComparison",
    "compare_versions",
    "lineage_of",
    "refuse_future_parents",
]

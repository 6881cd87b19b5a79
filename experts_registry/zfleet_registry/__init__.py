"""Experts by name and version: MLflow behind one class, ``ExpertRegistry``."""

from zfleet_registry.provenance import Parent, Provenance
from zfleet_registry.registry import ExpertRegistry
from zfleet_registry.version import ExpertVersion

__all__ = ["ExpertRegistry", "ExpertVersion", "Parent", "Provenance"]

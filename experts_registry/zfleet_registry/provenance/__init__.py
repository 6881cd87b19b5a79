"""Where a version is from: its record, the circumstances of its registration, and its card."""

from zfleet_registry.provenance.record import Kind, Parent, Provenance, facts_of
from zfleet_registry.provenance.registration import Registration

__all__ = ["Kind", "Parent", "Provenance", "Registration", "facts_of"]

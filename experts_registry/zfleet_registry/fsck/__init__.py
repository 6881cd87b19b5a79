"""Find what is wrong with a registry, and mend what can be mended. Each check, a module, finds one kind of fault."""

from zfleet_registry.fsck.check import Result, check_registry
from zfleet_registry.fsck.fault import Fault

__all__ = ["Fault", "Result", "check_registry"]

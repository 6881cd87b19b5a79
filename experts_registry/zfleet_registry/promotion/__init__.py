"""Moving an alias: by a gate, by force, and back again; and the traffic that services give to aliases."""

from zfleet_registry.promotion.gates import protect, unprotect
from zfleet_registry.promotion.judge import Check, Decision, judge
from zfleet_registry.promotion.promote import Outcome, present_of, promote, rollback
from zfleet_registry.promotion.traffic import Traffic, follow_traffic, set_traffic, traffic_of

__all__ = [
    "Check",
    "Decision",
    "Outcome",
    "Traffic",
    "follow_traffic",
    "judge",
    "present_of",
    "promote",
    "protect",
    "rollback",
    "set_traffic",
    "traffic_of",
    "unprotect",
]

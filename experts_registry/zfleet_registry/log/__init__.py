"""What happened to an expert: an append-only log in MLflow, whose entries are chained by their sha256."""

from zfleet_registry.log.chain import Break, verify
from zfleet_registry.log.entry import Action, Entry, Seal, What
from zfleet_registry.log.history import Change, changes, parse_time
from zfleet_registry.log.state import Position, State
from zfleet_registry.log.store import ExpertLog, newest_entries

__all__ = [
    "Action",
    "Break",
    "Change",
    "Entry",
    "ExpertLog",
    "Position",
    "Seal",
    "State",
    "What",
    "changes",
    "newest_entries",
    "parse_time",
    "verify",
]

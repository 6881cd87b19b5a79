"""What the log of an expert says about its aliases, gates and traffic: a fold over the entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zfleet_registry.log.entry import Action


@dataclass(frozen=True)
class Position:
    """Where an alias points.

    Attributes:
        version: The version; None if the alias was dropped.
        entry: The number of the entry that chose this version. A rollback returns to the choice of an older entry. 0
            is the choice that was made before the log began.
    """

    version: int | None
    entry: int


@dataclass(frozen=True)
class State:
    """What holds after an entry.

    Attributes:
        aliases: {alias: its position}.
        gates: {protected alias: the number of the entry that has its gate}.
        traffic: The number of the entry that has the traffic; 0 if none has.
    """

    aliases: Mapping[str, Position] = field(default_factory=dict)
    gates: Mapping[str, int] = field(default_factory=dict)
    traffic: int = 0

    def after(self, number: int, action: Action) -> tuple[State, bool]:
        """Apply an action.

        Args:
            number: The number of the action's entry.
            action: What a command recorded.

        Returns:
            The state after it, and whether the action took effect. It does not if the alias or its gate is not what
            the command relied on, because another command was faster.
        """
        alias = action.alias
        gate = self.gates.get(alias, 0)
        if action.what == "protect":
            return replace(self, gates={**self.gates, alias: number}), True
        if action.what == "unprotect":
            return replace(self, gates={name: at for name, at in self.gates.items() if name != alias}), gate > 0
        if action.what == "traffic":
            return replace(self, traffic=number), True
        if action.what not in ("set", "drop", "promote", "force", "rollback"):
            return self, True
        stale = action.relies_on is not None and action.relies_on != self.chosen_by(alias)
        if stale or (action.what not in ("force", "rollback") and action.gate != gate):
            return self, False
        chosen = number if action.returns_to is None else action.returns_to
        return replace(self, aliases={**self.aliases, alias: Position(action.version, chosen)}), True

    def chosen_by(self, alias: str) -> int:
        """Return the number of the entry that chose where an alias points; 0 if the log has none."""
        return self.aliases[alias].entry if alias in self.aliases else 0

    def version_of(self, alias: str) -> int | None:
        """Return the version that an alias points at; None if it was dropped or the log does not know it."""
        return self.aliases[alias].version if alias in self.aliases else None

    def to_plain(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        aliases = {name: [position.version, position.entry] for name, position in self.aliases.items()}
        return {"aliases": aliases, "gates": dict(self.gates), "traffic": self.traffic}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> State:
        """Read what ``to_plain`` returned.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: The data is something else.
        """
        aliases = {name: Position(version, entry) for name, (version, entry) in data["aliases"].items()}
        return cls(aliases, dict(data["gates"]), int(data["traffic"]))

"""Move the aliases of an expert: first an entry in its log, then the alias in MLflow.

The log decides. If a command is killed between the two, or two commands cross, the newest entry holds: the next command
on this alias, the same command again, or ``repair`` (of ``zfleet experts fsck``) puts the alias where the log has it.
Readers see the alias itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from zfleet.errors import AccessDenied, RegistryError
from zfleet_registry import catalog
from zfleet_registry.connect import Connection
from zfleet_registry.log import Action, Entry, ExpertLog, Position
from zfleet_registry.translate import Right


@dataclass(frozen=True)
class Mismatch:
    """An alias that MLflow has elsewhere than the log.

    Attributes:
        alias: The alias.
        logged: The version in the log; None: it was dropped.
        found: The version in MLflow; None: there is no such alias.
    """

    alias: str
    logged: int | None
    found: int | None

    def __str__(self) -> str:
        logged, found = (f"version {one}" if one is not None else "nothing" for one in (self.logged, self.found))
        return f"{self.alias} points at {found}, but the log has it at {logged}"


class Aliases:
    """The aliases of one expert.

    Args:
        connection: The registry.
        expert: The expert's registered model: ``lab-1a2b3c4d.math``.
    """

    def __init__(self, connection: Connection, expert: str) -> None:
        self.expert = expert
        self.log = ExpertLog(connection, expert)
        self._connection = connection

    def present(self) -> dict[str, int]:
        """Return {alias: version} as MLflow has it."""
        with self._connection.answering(f"read the aliases of {self.expert}"):
            model = catalog.find_model(self._connection.client, self.expert)
        return {} if model is None else {alias: int(version) for alias, version in model.aliases.items()}

    def model_tags(self) -> dict[str, str]:
        """Return the tags of the registered model: what holds for all versions of the expert."""
        with self._connection.answering(f"read the tags of {self.expert}"):
            model = catalog.find_model(self._connection.client, self.expert)
        return {} if model is None else dict(model.tags)

    def set_model_tag(self, key: str, value: str) -> None:
        """Set a tag of the registered model."""
        with self._connection.answering(f"set tag {key!r} of {self.expert}", "write"):
            catalog.tag_model(self._connection.client, self.expert, key, value)

    def mismatches(self) -> list[Mismatch]:
        """List the aliases that were moved without the log, or whose command was killed half-way."""
        logged, present = self.log.state.aliases, self.present()
        pairs = [(alias, position.version, present.get(alias)) for alias, position in sorted(logged.items())]
        return [Mismatch(*pair) for pair in pairs if pair[1] != pair[2]]

    def check_unprotected(self, alias: str, version: int | None = None) -> None:
        """Refuse to move an alias that has a gate without its gate.

        Raises:
            RegistryError: Says how to pass the gate.
        """
        if alias in self.log.state.gates:
            candidate = f"{self.expert}/{version or 'VERSION'}"
            raise RegistryError(
                f"alias {alias!r} of {self.expert} has a gate",
                f"promote through it: zfleet experts promote {candidate} --to {alias} --evaluate SPEC",
            )

    def move(self, action: Action) -> Entry:
        """Append an action on an alias to the log, and follow it in MLflow.

        Raises:
            RegistryError: Another command moved the alias, or changed its gate, after this one had looked at it.
            AccessDenied: The user may not move it; the log says so, and has the alias where it was.
        """
        entry = self.log.append(action)
        if not entry.seal.effective:
            raise RegistryError(
                f"alias {action.alias!r} of {self.expert} was moved, or its gate changed, by another command meanwhile "
                f"(entry {entry.number} of the log has no effect)",
                f"look at `zfleet experts history {self.expert}`, then decide again",
            )
        try:
            self._follow(action.alias)
        except AccessDenied as error:
            self._take_back(entry, error)
            raise
        return entry

    def _take_back(self, entry: Entry, error: AccessDenied) -> None:
        """Return an alias in the log to where it was: the user may append to the log, but not move the alias."""
        alias = entry.action.alias
        before = self.log.before(entry).aliases.get(alias, Position(entry.action.found, 0))
        action = Action(
            "rollback",
            self.expert,
            alias,
            before.version,
            found=entry.action.version,
            returns_to=before.entry,
            relies_on=entry.seal.state.chosen_by(alias),
            why=error.message,
        )
        self.log.append(action)

    def repair(self, alias: str) -> Entry:
        """Put an alias where the log has it, and record that.

        If that version was deleted, the alias goes back to the newest version before it that exists, as a rollback
        does. If there is none, it is dropped.

        Raises:
            RegistryError: Another command moved the alias meanwhile.
        """
        state, found = self.log.state, self.present().get(alias)
        logged = state.aliases[alias]
        if self._exists(logged.version):
            self._follow(alias)
            return self.log.append(Action("repair", self.expert, alias, logged.version, found=found))
        choice: Position | None = logged
        while choice is not None and not self._exists(choice.version):
            choice = self.log.choice_before(alias, choice)
        why = f"version {logged.version} does not exist any more"
        relies_on, gate = state.chosen_by(alias), state.gates.get(alias, 0)
        action = Action("drop", self.expert, alias, found=found, relies_on=relies_on, gate=gate, why=why)
        if choice is not None and choice.version is not None:
            action = replace(action, what="rollback", version=choice.version, returns_to=choice.entry)
        return self.move(action)

    def remove_unlogged(self, alias: str) -> None:
        """Remove an alias that the log does not know from MLflow."""
        with self._connection.answering(f"remove alias {alias!r} of {self.expert}", "manage"):
            self._connection.client.delete_registered_model_alias(self.expert, alias)

    def _exists(self, version: int | None) -> bool:
        """Whether an alias can be at a version: it exists, or is none at all."""
        if version is None:
            return True
        with self._connection.answering(f"look for version {version} of {self.expert}"):
            return catalog.find_version(self._connection.client, self.expert, version) is not None

    def _follow(self, alias: str) -> None:
        """Point the alias where the newest entry has it, until no newer entry moves it meanwhile."""
        position = self.log.state.aliases[alias]
        while True:
            # MLflow wants the right to manage from whoever removes an alias.
            right: Right = "manage" if position.version is None else "promote"
            with self._connection.answering(f"move alias {alias!r} of {self.expert}", right):
                if position.version is not None:
                    catalog.point_alias(self._connection.client, self.expert, alias, position.version)
                elif alias in self.present():
                    self._connection.client.delete_registered_model_alias(self.expert, alias)
            newest = self.log.state.aliases[alias]
            if newest == position:
                return
            position = newest

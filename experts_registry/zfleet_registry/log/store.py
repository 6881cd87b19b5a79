"""Where a log is stored: the versions of a registered model beside the expert's own.

MLflow numbers the versions of a registered model without gaps, in one transaction with their tags, in every database
and through every tracking server. So creating a version is an append, safe for any number of writers. The writer seals
its entry afterwards. If it is killed before, the next reader seals the entry, because a seal follows from the entries
before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from zfleet_registry import catalog
from zfleet_registry.connect import Connection
from zfleet_registry.log.chain import Break, seal
from zfleet_registry.log.entry import Action, Entry, Seal
from zfleet_registry.log.state import Position, State
from zfleet_registry.tags import PREFIX, joined_tags, split_tags
from zfleet_registry.translate import status_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FORMAT = "zfleet-log/1"
_SEAL = f"{PREFIX}seal"
# No expert can have this name: `~` is in neither a base's slug nor an expert's name.
_MODEL = "log~"
_FEW = 25


def log_model(expert: str) -> str:
    """Return what MLflow calls the log of a registered model, whose versions are the entries."""
    return _MODEL + expert


def expert_of_log(model: str) -> str | None:
    """Return the registered model whose log is stored under a name; None if the name is not that of a log."""
    return model.removeprefix(_MODEL) if model.startswith(_MODEL) else None


def newest_entries(connection: Connection, *, everything: bool) -> Iterator[dict[str, int]]:
    """Yield {expert: the number of the newest entry of its log}, page by page, the log that changed last first.

    Args:
        connection: The registry.
        everything: Make pages as large as MLflow allows, for a reader that wants all; otherwise small.
    """
    size = catalog.PAGE if everything else _FEW
    with connection.answering("look for new entries of logs"):
        for page in catalog.model_pages(connection.client, f"name LIKE '{_MODEL}%'", size):
            newest = [(model.name.removeprefix(_MODEL), catalog.newest_of(model)) for model in page]
            yield {expert: int(version.version) for expert, version in newest if version is not None}


class ExpertLog:
    """The log of one expert. Several threads and processes may append at once.

    Args:
        connection: The registry.
        expert: The expert's registered model: ``lab-1a2b3c4d.math``.
    """

    def __init__(self, connection: Connection, expert: str) -> None:
        self.expert = expert
        self._connection = connection
        self._client = connection.client
        self._model = log_model(expert)

    def append(self, action: Action) -> Entry:
        """Append an action; whether it took effect is in the entry's seal.

        Raises:
            RegistryError: The registry refused.
            RegistryUnreachable: The registry does not answer. The entry may have been appended.
        """
        with self._connection.answering(f"append to the log of {self.expert}", "promote"):
            tags = {f"{PREFIX}format": FORMAT, **split_tags({"action": action.to_json()})}
            # MLflow wants a source, and a server refuses paths that it cannot see.
            source = f"zfleet-log:/{self.expert}"
            text = action.sentence[: catalog.LONGEST_DESCRIPTION]
            about = (
                f"The log of [{self.expert}](#/models/{self.expert}): each version is an entry. "
                f"`zfleet experts history {self.expert}` checks and prints it."
            )
            made = catalog.create_version(self._client, self._model, source, tags, about=about, description=text)
            return self._sealed(made, action)

    def newest(self) -> Entry | None:
        """Return the newest entry that can be read; None if there is none."""
        with self._connection.answering(f"read the log of {self.expert}"):
            newest = catalog.newest_version(self._client, self._model)
            if newest is None:
                return None
            entry = self._parsed(newest)
            return entry if isinstance(entry, Entry) else self._entry_at_most(entry.number - 1)

    @property
    def state(self) -> State:
        """What holds after the newest entry."""
        newest = self.newest()
        return State() if newest is None else newest.seal.state

    def entry(self, number: int) -> Entry | None:
        """Return an entry; None if it does not exist or cannot be read."""
        with self._connection.answering(f"read entry {number} of the log of {self.expert}"):
            entry = self._read(number)
            return entry if isinstance(entry, Entry) else None

    def entries(self, after: int = 0) -> Iterator[Entry | Break]:
        """Yield all entries with higher numbers, oldest first; a ``Break`` for one that cannot be read."""
        wanted = f"name = '{self._model}'" + (f" AND version_number > {after}" if after else "")
        with self._connection.answering(f"read the log of {self.expert}"):
            for version in catalog.all_versions(self._client, wanted):
                yield self._parsed(version)

    def unsealed(self) -> list[int]:
        """Return the entries whose writers have not sealed them yet. Reading an entry seals it; this does not."""
        with self._connection.answering(f"look at the log of {self.expert}"):
            versions = catalog.all_versions(self._client, f"name = '{self._model}'")
            return [int(version.version) for version in versions if _SEAL not in version.tags]

    def at(self, time: datetime) -> Entry | None:
        """Return the last entry at or before a time in the chain, by bisection; None if the log began later."""
        newest = self.newest()
        if newest is None or newest.seal.at <= time:
            return newest
        found, low, high = None, 1, newest.number
        while low < high:
            middle = (low + high) // 2
            with self._connection.answering(f"read the log of {self.expert}"):
                entry = self._entry_at_most(middle)
            if entry is None or entry.seal.at <= time:
                found, low = entry or found, middle + 1
            else:
                high = middle
        return found

    def before(self, entry: Entry) -> State:
        """Return what held before an entry."""
        with self._connection.answering(f"read the log of {self.expert}"):
            earlier = self._entry_at_most(entry.number - 1)
        return State() if earlier is None else earlier.seal.state

    def choice_before(self, alias: str, position: Position) -> Position | None:
        """Return the choice that a choice of an alias replaced; None if the log does not know it."""
        entry = self.entry(position.entry) if position.entry else None
        if entry is None:
            return None
        # An alias that was set before the log began is known from what the first command found.
        return self.before(entry).aliases.get(alias) or Position(entry.action.found, 0)

    def _entry_at_most(self, number: int) -> Entry | None:
        """Return the entry of this number, or the nearest before it that can be read."""
        for earlier in range(number, 0, -1):
            if isinstance(entry := self._read(earlier), Entry):
                return entry
        return None

    def _read(self, number: int) -> Entry | Break:
        version = catalog.find_version(self._client, self._model, number)
        return Break(number, "it was removed") if version is None else self._parsed(version)

    def _parsed(self, version: ModelVersion) -> Entry | Break:
        number = int(version.version)
        try:
            action = _action(version)
            if _SEAL in version.tags:
                return Entry(number, action, Seal.from_json(version.tags[_SEAL]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Break(number, f"it cannot be read: {type(error).__name__}: {error}")
        return self._sealed(version, action)

    def _sealed(self, version: ModelVersion, action: Action) -> Entry:
        """Seal an entry, and before it those whose writers were killed before they could."""
        number = int(version.version)
        waiting = [(number, action)]
        before: Entry | None = None
        for earlier in range(number - 1, 0, -1):
            found = catalog.find_version(self._client, self._model, earlier)
            # An entry that was removed or damaged is left out; `verify` names it.
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                if found is not None and _SEAL in found.tags:
                    before = Entry(earlier, _action(found), Seal.from_json(found.tags[_SEAL]))
                    break
                if found is not None:
                    waiting.append((earlier, _action(found)))
        sealed = before
        for place, unsealed in reversed(waiting):
            sealed = seal(place, unsealed, sealed)
            # Who only reads may not have the right to write, and the writer is probably about to.
            if not self._connection.reading:
                self._store(sealed)
        assert sealed is not None
        return sealed

    def _store(self, sealed: Entry) -> None:
        """Store the seal of an entry."""
        from mlflow.exceptions import MlflowException

        try:
            catalog.tag_version(self._client, self._model, sealed.number, _SEAL, sealed.seal.to_json())
        except MlflowException as error:
            # Whoever may only read computes the same seal and does not store it.
            if status_of(error) != 403:
                raise


def _action(version: ModelVersion) -> Action:
    return Action.from_json(joined_tags(version.tags)["action"])

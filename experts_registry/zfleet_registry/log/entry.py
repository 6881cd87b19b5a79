"""An entry of the log: the action that a command records, and the seal that ties it to the entries before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from zfleet_registry.log.state import State
from zfleet_registry.who import current_user

What = Literal[
    "register",
    "sign",
    "set",
    "drop",
    "promote",
    "refuse",
    "force",
    "rollback",
    "protect",
    "unprotect",
    "traffic",
    "repair",
]

_SENTENCES: Mapping[What, str] = {
    "register": "registered {version}",
    "sign": "signed {version}",
    "set": "set {alias} to {version}",
    "drop": "dropped {alias}",
    "promote": "promoted {version} to {alias}",
    "refuse": "refused {version} as {alias}",
    "force": "forced {version} to {alias}",
    "rollback": "rolled {alias} back to {version}",
    "protect": "protected {alias} by a gate",
    "unprotect": "removed the gate of {alias}",
    "traffic": "set the traffic",
    "repair": "put {alias} back to {version}, where the log has it",
}


@dataclass(frozen=True)
class Action:
    """What a command does to an expert. It is written before the alias moves, and never changes.

    Attributes:
        what: The kind of action.
        expert: The expert, qualified by its base: ``lab-1a2b3c4d.math``.
        alias: The alias; empty if the action has none.
        version: The version that is registered, or that the alias is to point at; None if the action has none.
        found: The version that the alias had in MLflow when the command began; None if it had none.
        relies_on: The number of the entry whose choice the command saw and replaces; the action has no effect if
            another entry chose meanwhile. None: it replaces any choice.
        returns_to: Of a rollback, the number of the entry whose choice holds again.
        gate: The number of the entry with the gate that the command saw; 0 if the alias had none.
        why: The reason that a person gave.
        evidence: The measurements and the decision of a gate.
        data: A gate, shares of traffic, the digests of what was registered, or the key that signed.
        who: The user.
        time: When, by the clock of the machine that wrote it (UTC).
    """

    what: What
    expert: str
    alias: str = ""
    version: int | None = None
    found: int | None = None
    relies_on: int | None = None
    returns_to: int | None = None
    gate: int = 0
    why: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    who: str = field(default_factory=current_user)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def sentence(self) -> str:
        """What happened, on one line, for people."""
        version = "no version" if self.version is None else f"version {self.version}"
        done = _SENTENCES[self.what].format(alias=self.alias, version=version)
        return f"{self.who} {done}" + (f": {self.why}" if self.why else "")

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces, ASCII. Empty fields are left out."""
        values = {key: value for key, value in asdict(self).items() if value not in (None, "", {})}
        return canonical(values | {"time": self.time.isoformat()})

    @classmethod
    def from_json(cls, text: str) -> Action:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError, KeyError, TypeError: The text is something else, or has fields that this version does not know.
        """
        values = json.loads(text)
        if unknown := values.keys() - {item.name for item in fields(cls)}:
            raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
        if values["what"] not in _SENTENCES:
            raise ValueError(f"unknown action {values['what']!r}")
        return cls(**values | {"time": datetime.fromisoformat(values["time"])})


@dataclass(frozen=True)
class Seal:
    """What ties an entry to the entries before it. It follows from them, so whoever seals an entry writes the same.

    Attributes:
        at: The entry's time in the chain (UTC): the action's time, or that of the entry before if that is later, as
            after an entry from a machine whose clock is ahead.
        before: The sha256 of the entry before; empty for the first.
        effective: Whether the action took effect. See ``State.after``.
        state: What holds after it.
        sha256: Over number, action and all of the above.
    """

    at: datetime
    before: str
    effective: bool
    state: State
    sha256: str

    def to_json(self) -> str:
        """Return canonical JSON."""
        return canonical({**_sealed(self.at, self.before, self.effective, self.state), "sha256": self.sha256})

    @classmethod
    def from_json(cls, text: str) -> Seal:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: The text is something else.
        """
        values = json.loads(text)
        state = State.from_plain(values["state"])
        at = datetime.fromisoformat(values["at"])
        return cls(at, values["before"], bool(values["effective"]), state, values["sha256"])


@dataclass(frozen=True)
class Entry:
    """One entry of an expert's log.

    Attributes:
        number: 1, 2, ...
        action: What a command recorded.
        seal: What ties it to the entries before.
    """

    number: int
    action: Action
    seal: Seal

    @property
    def clock_off(self) -> bool:
        """Whether the clock of the machine that wrote it was behind that of an entry before."""
        return self.seal.at != self.action.time

    @property
    def is_change(self) -> bool:
        """Whether it changed which versions there are, where an alias points, or the traffic."""
        return self.seal.effective and self.action.what not in ("refuse", "protect", "unprotect")

    def to_plain(self) -> dict[str, Any]:
        """Return the entry as plain data for JSON, with what holds after it."""
        seal = {"at": self.seal.at.isoformat(), "before": self.seal.before, "sha256": self.seal.sha256}
        more = {"entry": self.number, "effective": self.seal.effective}
        return {**more, **json.loads(self.action.to_json()), **seal, "state": self.seal.state.to_plain()}


def canonical(values: Mapping[str, Any]) -> str:
    """Return JSON that is the same for the same values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def sealed_values(number: int, action: Action, seal: Seal) -> Mapping[str, Any]:
    """Return all that the sha256 of an entry is of."""
    values = _sealed(seal.at, seal.before, seal.effective, seal.state)
    return {**values, "number": number, "action": action.to_json()}


def _sealed(at: datetime, before: str, effective: bool, state: State) -> dict[str, Any]:
    return {"at": at.isoformat(), "before": before, "effective": effective, "state": state.to_plain()}

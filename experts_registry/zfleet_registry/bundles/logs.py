"""The logs in a bundle: who did what to each expert in the registry that it comes from, chained as they were there."""

from __future__ import annotations

import json
from collections.abc import Iterable

from zfleet.errors import FormatError
from zfleet_registry.log import Action, Break, Entry, Seal, verify


def log_lines(entries: Iterable[Entry | Break]) -> bytes:
    """Write a log: a line of JSON for each entry, and for one that cannot be read why not."""
    return "".join(json.dumps(_plain(entry), sort_keys=True) + "\n" for entry in entries).encode()


def read_log(data: bytes, where: str) -> tuple[list[Entry | Break], Break | None]:
    """Read what ``log_lines`` wrote.

    Args:
        data: The lines.
        where: What they are, for errors.

    Returns:
        The entries, and where the chain was already broken in the registry that they come from; None: it holds.

    Raises:
        FormatError: A line is none of a log.
    """
    try:
        entries = list(map(_entry, data.decode().splitlines()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{where} cannot be read: {error!r}", "copy the bundle again, or export it again") from error
    return entries, verify(entries)


def _plain(entry: Entry | Break) -> dict[str, object]:
    if isinstance(entry, Break):
        return {"number": entry.number, "unreadable": entry.reason}
    return {"number": entry.number, "action": entry.action.to_json(), "seal": entry.seal.to_json()}


def _entry(line: str) -> Entry | Break:
    values = json.loads(line)
    if "unreadable" in values:
        return Break(int(values["number"]), str(values["unreadable"]))
    return Entry(int(values["number"]), Action.from_json(values["action"]), Seal.from_json(values["seal"]))

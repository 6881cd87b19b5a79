"""``zfleet experts watch``: print the changes of a registry as they come."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from zfleet.errors import SpecError
from zfleet_cli.options import AsJson, Registry
from zfleet_cli.untrusted import shown_lines

if TYPE_CHECKING:
    from zfleet_registry.log import Entry
    from zfleet_registry.watch import Cursor, Webhooks


def watch(
    since: Annotated[
        str | None,
        typer.Option(
            metavar="CURSOR",
            help="The cursor of the last line that was read, or `beginning`; by default changes from now on.",
            show_default=False,
        ),
    ] = None,
    webhooks: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Receive the tracking server's webhooks here, too: 127.0.0.1:0 for a free port of this machine.",
            show_default=False,
        ),
    ] = None,
    webhook_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="How the tracking server reaches this port.", show_default=False),
    ] = None,
    registry: Registry = None,
    as_json: AsJson = False,
) -> None:
    """Print new versions, moves of aliases and changes of traffic as they come, until Ctrl-C.

    A change is at most two seconds late. With --json, each is one line.
    """
    from zfleet_registry import ExpertRegistry
    from zfleet_registry.watch import Cursor

    address = _address(webhooks, webhook_url)
    cursor = None if since is None else Cursor.from_text(since)
    changes = ExpertRegistry(registry, reading=True).watch(cursor, address)
    try:
        for entry in changes:
            typer.echo(_as_json(entry, changes.cursor) if as_json else _in_words(entry))
    finally:
        changes.close()


def _as_json(entry: Entry, cursor: Cursor) -> str:
    return json.dumps({"cursor": cursor.to_text(), **entry.to_plain()})


def _in_words(entry: Entry) -> str:
    return shown_lines(f"{entry.seal.at:%Y-%m-%d %H:%M:%S}  {entry.action.expert}  {entry.action.sentence}").plain


def _address(webhooks: str | None, url: str | None) -> Webhooks | None:
    from zfleet_registry.watch import Webhooks

    if webhooks is None:
        if url is not None:
            raise SpecError(
                "--webhook-url has no effect without --webhooks", "say where to listen: --webhooks HOST:PORT"
            )
        return None
    host, _, port = webhooks.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise SpecError(f"--webhooks is {webhooks[:100]!r}", "write it as HOST:PORT: 127.0.0.1:9000")
    return Webhooks(host.strip("[]"), int(port), url)

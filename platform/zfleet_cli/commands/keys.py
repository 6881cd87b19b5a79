"""``zfleet keys``: the API keys of a service, and what they have used."""

from __future__ import annotations

import csv
import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zfleet.errors import SpecError
from zfleet.paths import KEYS_FILE
from zfleet_cli.durations import seconds_of
from zfleet_cli.options import AsJson
from zfleet_cli.output import print_fields, print_rows

if TYPE_CHECKING:
    from zfleet_serve.access.key_store import KeyStore
    from zfleet_serve.access.key_text import KeyText
    from zfleet_serve.access.keys import Key

app = typer.Typer(no_args_is_help=True, help="API keys of a service: create, limit, replace and end them.")

Place = Annotated[str, typer.Option("--keys", metavar="PLACE", help="Where they are: a sqlite file or postgresql://…")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The id of a key.", show_default=False)]


@dataclass(frozen=True)
class KeyRow:
    """A key in the list."""

    id: str
    name: str
    state: str
    experts: str
    priority: str
    weight: float
    expires: str


@dataclass(frozen=True)
class UsageRow:
    """What a key has used of an expert on a day."""

    day: str
    key: str
    expert: str
    requests: int
    prompt: int
    answer: int
    first_pass: int


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for people, such as a team's.", show_default=False)],
    expert: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="What requests may name; may be repeated. By default all.", show_default=False
        ),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="Paths, such as /v1/models*; may be repeated. By default all.", show_default=False
        ),
    ] = None,
    mixtures: Annotated[bool, typer.Option(help="Whether several experts may answer together.")] = True,
    lenient: Annotated[bool, typer.Option("--lenient", help="Ignore unknown fields of requests.")] = False,
    default_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model of requests that name none.", show_default=False)
    ] = None,
    weight: Annotated[float, typer.Option(help="Its share among keys of the same priority.")] = 1.0,
    priority: Annotated[str, typer.Option(help="high, normal or low; low waits as long as others wait.")] = "normal",
    requests_per_minute: Annotated[int | None, typer.Option(show_default=False)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(show_default=False)] = None,
    tokens_per_month: Annotated[int | None, typer.Option(show_default=False)] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="After 30d or 12h, or a day: 2027-01-31.", show_default=False)
    ] = None,
    keys: Place = KEYS_FILE,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It is stored nowhere, and cannot be shown again."""
    settings = {
        "mixtures": mixtures,
        "lenient": lenient,
        "default_model": default_model,
        "weight": weight,
        "priority": priority,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_month": tokens_per_month,
    }
    scopes = {name: values for name, values in (("experts", expert), ("routes", route)) if values}
    end = None if expires is None else _time_of(expires)
    _print_new(*_store(keys).create(name, settings | scopes, end), as_json)


@app.command("list")
def list_(keys: Place = KEYS_FILE, as_json: AsJson = False) -> None:
    """List all keys, without their secrets."""
    found, now = _store(keys).all(), time.time()
    if as_json:
        typer.echo(json.dumps([_plain(key) for key in found], indent=2))
        return
    print_rows([_row(key, now) for key in found], "keys")


@app.command()
def show(key_id: KeyId, keys: Place = KEYS_FILE, as_json: AsJson = False) -> None:
    """Show what a key may ask for, and how much."""
    _print(_store(keys).get(key_id), as_json)


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[str, typer.Option(metavar="TIME", help="How long the old secret stays valid.")] = "1h",
    keys: Place = KEYS_FILE,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and print it. The id and all settings stay."""
    _print_new(*_store(keys).rotate(key_id, seconds_of(grace, "--grace")), as_json)


@app.command()
def revoke(key_id: KeyId, keys: Place = KEYS_FILE, as_json: AsJson = False) -> None:
    """End a key for good. Services refuse it within two seconds."""
    _print(_store(keys).revoke(key_id), as_json)


@app.command()
def usage(
    key_id: Annotated[str | None, typer.Option("--key", metavar="ID", help="Of one key.", show_default=False)] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="The first day; by default the first of this month.", show_default=False),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    keys: Place = KEYS_FILE,
    as_json: AsJson = False,
) -> None:
    """Show what keys have used: requests and tokens, by day and expert. Days are those of UTC."""
    from zfleet_serve.access.database import Database
    from zfleet_serve.access.usage import UsageStore, month_start

    if as_csv and as_json:
        raise SpecError("both --csv and --json are given", "give one of them")
    first = month_start() if since is None else _day(since).isoformat()
    found = UsageStore(Database(keys)).read(first, key_id)
    rows = [{**vars(place), **vars(amount)} for place, amount in found]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif as_csv:
        names = ("day", "key_id", "expert", "requests", "prompt_tokens", "completion_tokens", "first_pass_tokens")
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        table = [
            UsageRow(
                day=place.day,
                key=place.key_id,
                expert=place.expert or "(base)",
                requests=amount.requests,
                prompt=amount.prompt_tokens,
                answer=amount.completion_tokens,
                first_pass=amount.first_pass_tokens,
            )
            for place, amount in found
        ]
        print_rows(table, f"tokens since {first}")


def _store(place: str) -> KeyStore:
    from zfleet_serve.access.database import Database
    from zfleet_serve.access.key_store import KeyStore

    return KeyStore(Database(place))


def _print_new(key: Key, text: KeyText, as_json: bool) -> None:
    """Print a key with its secret, which goes to the standard output alone."""
    if as_json:
        typer.echo(json.dumps({"key": text.reveal(), **_plain(key)}, indent=2))
        return
    typer.echo(text.reveal())
    typer.echo(f"key {key.id} of {key.name!r}: shown this once; services accept it within two seconds", err=True)


def _print(key: Key, as_json: bool) -> None:
    plain = _plain(key)
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
    else:
        print_fields({name: value for name, value in plain.items() if name != "id"}, f"key {key.id}")


def _plain(key: Key) -> dict[str, Any]:
    """Write a key without the hashes of its secrets."""
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(time.time()),
        "created": _written(key.created),
        "expires": _written(key.expires),
        "revoked": _written(key.revoked),
        "old_secret_until": _written(key.old_until),
        **key.settings.model_dump(mode="json"),
    }


def _row(key: Key, now: float) -> KeyRow:
    settings = key.settings
    return KeyRow(
        id=key.id,
        name=key.name,
        state=key.state(now),
        experts=", ".join(settings.experts),
        priority=settings.priority,
        weight=settings.weight,
        expires="never" if key.expires is None else f"{datetime.fromtimestamp(key.expires, UTC):%Y-%m-%d}",
    )


def _written(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _time_of(text: str) -> float:
    """Return the end of a time such as ``30d``, or the beginning of a day in UTC, in seconds since 1970."""
    if "-" not in text:
        return time.time() + seconds_of(text, "--expires")
    day = _day(text)
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise SpecError(f"{text!r} is no day", "write one such as 2027-01-31") from None

"""``zfleet experts history``: who did what to an expert, with which evidence, and where aliases pointed when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zfleet.errors import ExpertNotFound, RegistryError
from zfleet_cli.commands.experts import find_version
from zfleet_cli.options import AsJson, BaseSlug, Registry
from zfleet_cli.output import print_fields, print_rows
from zfleet_cli.untrusted import shown_lines

if TYPE_CHECKING:
    from zfleet_registry import ExpertRegistry, ExpertVersion
    from zfleet_registry.aliases import Aliases
    from zfleet_registry.log import Break, Change, Entry


@dataclass(frozen=True)
class HistoryRow:
    """One entry in the list."""

    no: int
    time: str
    who: str
    action: str
    alias: str
    versions: str
    notes: str


@dataclass(frozen=True)
class AliasRow:
    """Where an alias pointed."""

    alias: str
    version: str
    z_digest: str
    chosen_by: str


def history(
    name: Annotated[str, typer.Argument(help="An expert: math, or lab-1a2b3c4d.math", show_default=False)],
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Where aliases pointed then; UTC or with an offset.", show_default=False),
    ] = None,
    number: Annotated[
        int | None, typer.Option("--entry", metavar="N", help="One entry with its evidence.", show_default=False)
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The log that a bundle brought along, as it was there.", show_default=False),
    ] = None,
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """Show the log of an expert, newest last. Exits 1 if an entry was changed or removed, and names the first."""
    from zfleet_registry import ExpertRegistry

    if bundle is not None:
        if at is not None or number is not None:
            raise typer.BadParameter("a bundle's log is shown whole: leave out --at and --entry", param_hint="--bundle")
        _print_bundled(bundle, name, as_json)
        return
    experts = ExpertRegistry(registry)
    version = find_version(experts, name, base)
    aliases = experts.aliases(version.base_slug, version.name)
    if at is not None:
        _print_moment(experts, aliases, version, at, as_json)
    elif number is not None:
        _print_entry(aliases, number, as_json)
    else:
        _print_all(aliases, as_json)


def _print_all(aliases: Aliases, as_json: bool) -> None:
    from zfleet_registry.log import verify

    entries = list(aliases.log.entries())
    _print_log(aliases.expert, entries, verify(entries), [str(one) for one in aliases.mismatches()], as_json)


def _print_bundled(file: Path, name: str, as_json: bool) -> None:
    from zfleet_registry.bundles import open_bundle

    with open_bundle(file) as bundle:
        experts = [log.expert for log in bundle.manifest.logs]
        named = [expert for expert in experts if name in (expert, expert.partition(".")[2])]
        entries, broken = bundle.log(named[0] if len(named) == 1 else name)
        _print_log(named[0], entries, broken, [], as_json)


def _print_log(
    expert: str, entries: Sequence[Entry | Break], broken: Break | None, mismatches: Sequence[str], as_json: bool
) -> None:
    from zfleet_registry.log import Entry, changes

    rows = changes(entry for entry in entries if isinstance(entry, Entry))
    if as_json:
        values = {
            "expert": expert,
            "broken": None if broken is None else {"entry": broken.number, "reason": broken.reason},
            "mismatches": mismatches,
            "entries": [_plain(row.entry, row.version_before) for row in rows],
        }
        typer.echo(json.dumps(values, indent=2))
    else:
        print_rows([_row(row) for row in rows], f"log of {expert}, times in UTC")
        if rows:
            typer.echo(f"newest sha256 {rows[-1].entry.seal.sha256}")
        for one in mismatches:
            _warn(f"{one}; `zfleet experts fsck --repair` puts it where the log has it")
        if broken is not None:
            _warn(f"the log is broken at entry {broken.number}: {broken.reason}")
    if broken is not None:
        raise typer.Exit(1)


def _print_moment(experts: ExpertRegistry, aliases: Aliases, version: ExpertVersion, at: str, as_json: bool) -> None:
    from zfleet_registry.log import parse_time

    entry = aliases.log.at(parse_time(at))
    if entry is None:
        raise RegistryError(f"the log of {aliases.expert} begins after {at}", "give a later time")
    positions = sorted(entry.seal.state.aliases.items())
    found = [
        (alias, position.version, _digest(experts, version, position.version), aliases.log.entry(position.entry))
        for alias, position in positions
        if position.version is not None
    ]
    if as_json:
        pointed = {
            alias: {
                "version": number,
                "z_digest": digest,
                "chosen_by": None if chosen is None else _plain(chosen, None),
            }
            for alias, number, digest, chosen in found
        }
        typer.echo(
            json.dumps({"expert": aliases.expert, "at": at, "entry": entry.number, "aliases": pointed}, indent=2)
        )
        return
    rows = [
        AliasRow(alias, f"{version.name}/{number}", digest[:12], _chosen(chosen))
        for alias, number, digest, chosen in found
    ]
    print_rows(rows, f"{aliases.expert} at {at}, after entry {entry.number}")


def _print_entry(aliases: Aliases, number: int, as_json: bool) -> None:
    from zfleet_registry.promotion import Check

    entry = aliases.log.entry(number)
    if entry is None:
        raise ExpertNotFound(
            f"the log of {aliases.expert} has no entry {number} that can be read",
            f"`zfleet experts history {aliases.expert}` lists its entries",
        )
    if as_json:
        typer.echo(json.dumps(_plain(entry, aliases.log.before(entry).version_of(entry.action.alias)), indent=2))
        return
    action = entry.action
    decision = action.evidence.get("decision", {})
    fields = {
        "time": f"{entry.seal.at:%Y-%m-%d %H:%M:%S} UTC",
        "what": action.sentence,
        "data": dict(action.data),
        "evaluation": action.evidence.get("evidence", {}).get("evaluation"),
        "run": action.evidence.get("evidence", {}).get("run_id"),
        "sha256": entry.seal.sha256,
        "sha256 before": entry.seal.before,
    }
    print_fields(fields, f"entry {number} of the log of {aliases.expert}")
    if decision:
        print_rows([Check(**check) for check in decision["checks"]], "decision")


def _row(change: Change) -> HistoryRow:
    entry, action = change.entry, change.entry.action
    before, after = ("-" if one is None else str(one) for one in (change.version_before, action.version))
    return HistoryRow(
        no=entry.number,
        time=f"{entry.seal.at:%Y-%m-%d %H:%M:%S}",
        who=action.who,
        action=action.what,
        alias=action.alias,
        versions=f"{before} > {after}" if action.alias and action.version != change.version_before else after,
        notes=change.notes,
    )


def _plain(entry: Entry, version_before: int | None) -> dict[str, Any]:
    return {"version_before": version_before, **entry.to_plain()}


def _digest(experts: ExpertRegistry, version: ExpertVersion, number: int) -> str:
    try:
        return experts.resolve(f"{version.name}/{number}", version.base_slug).z_digest
    except ExpertNotFound:
        return "(deleted)"


def _chosen(entry: Entry | None) -> str:
    if entry is None:
        return "before the log"
    return f"entry {entry.number}, {entry.action.what} by {entry.action.who}"


def _warn(text: str) -> None:
    typer.echo(shown_lines(f"warning: {text}").plain, err=True)

"""``zfleet experts promote``, ``rollback``, ``protect``, ``traffic``: which version answers, and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zfleet.config.gate import GateSpec
from zfleet.config.load import load_spec
from zfleet.config.names import CHAMPION
from zfleet.config.public_keys import read_public_keys
from zfleet.errors import SpecError
from zfleet_cli.commands.experts import find_version
from zfleet_cli.options import AsJson, BaseSlug, Reference, Registry, Why
from zfleet_cli.output import print_fields, print_rows, results_alone

if TYPE_CHECKING:
    from zfleet_registry import ExpertRegistry, ExpertVersion
    from zfleet_registry.promotion import Outcome

GateFile = Annotated[
    Path | None, typer.Option("--gate", metavar="FILE", help="A gate; docs/registry.md has one.", show_default=False)
]
ExpertName = Annotated[str, typer.Argument(help="An expert: math, or lab-1a2b3c4d.math", show_default=False)]


def promote(
    reference: Reference,
    to: Annotated[str, typer.Option("--to", metavar="ALIAS", help="The alias.")] = CHAMPION,
    gate: GateFile = None,
    evidence: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A finished evaluation of both versions.", show_default=False),
    ] = None,
    evaluate: Annotated[
        Path | None,
        typer.Option(metavar="SPEC", help="Evaluate both versions now, by this spec.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the gate says; needs --why.")] = False,
    why: Why = "",
    registry: Registry = None,
    base: BaseSlug = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version if the version passes the alias's gate; otherwise print what it lacks, and exit 1."""
    from zfleet_registry import ExpertRegistry
    from zfleet_registry.promotion import present_of
    from zfleet_registry.promotion import promote as promote_to

    if evidence is not None and evaluate is not None:
        raise SpecError("both --evidence and --evaluate are given", "give one of them")
    own_gate = None if gate is None else _load_gate(gate)
    experts = ExpertRegistry(registry)
    version = find_version(experts, reference, base)
    shown = None
    if evidence is not None or evaluate is not None:
        from zfleet_jobs.evaluate.evidence import measured_evidence, stored_evidence

        present = present_of(experts, version, to)
        with results_alone():
            if evaluate is not None:
                shown = measured_evidence(evaluate, registry, version, present)
            elif evidence is not None:
                shown = stored_evidence(evidence, version, present)
    outcome = promote_to(experts, version, to, evidence=shown, gate=own_gate, force=force, why=why, dry_run=dry_run)
    _print_outcome(outcome, to, as_json)
    if not outcome.promoted:
        raise typer.Exit(1)


def rollback(
    name: ExpertName,
    alias: Annotated[str, typer.Option(help="The alias.")] = CHAMPION,
    why: Why = "",
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at the version that it had before; again, one more back."""
    from zfleet_registry.promotion import rollback as roll_back

    experts, version = _expert(name, registry, base)
    entry = roll_back(experts, version.base_slug, version.name, alias, why)
    if as_json:
        values = {"alias": alias, "version": entry.action.version, "found": entry.action.found, "entry": entry.number}
        typer.echo(json.dumps(values))
    else:
        typer.echo(f"{alias}: {version.name}/{entry.action.version} (before: {entry.action.found})")


def protect(
    name: ExpertName,
    gate: GateFile = None,
    drop: Annotated[
        str | None, typer.Option(metavar="ALIAS", help="Remove the gate of this alias.", show_default=False)
    ] = None,
    why: Why = "",
    registry: Registry = None,
    base: BaseSlug = None,
) -> None:
    """Give an alias a gate, which `promote` asks from then on; nothing else moves the alias."""
    from zfleet_registry.promotion import protect as protect_by
    from zfleet_registry.promotion import unprotect

    if (gate is None) == (drop is None):
        raise SpecError("neither or both of --gate and --drop are given", "give one of them")
    spec = None if gate is None else _load_gate(gate)
    experts, version = _expert(name, registry, base)
    if spec is not None:
        entry = protect_by(experts, version, spec, why)
        typer.echo(f"{spec.alias} of {version.base_slug}.{version.name} has a gate (entry {entry.number} of the log)")
    elif drop is not None:
        unprotect(experts.aliases(version.base_slug, version.name), drop, why)
        typer.echo(f"{drop} of {version.base_slug}.{version.name} has no gate")


def traffic(
    name: ExpertName,
    shares: Annotated[
        list[str] | None,
        typer.Argument(metavar="ALIAS=PERCENT...", help="Together 100; none: print them.", show_default=False),
    ] = None,
    shadow: Annotated[
        str | None, typer.Option(metavar="ALIAS", help="Answers copies that nobody sees; '': none.", show_default=False)
    ] = None,
    why: Why = "",
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """Set or print which aliases answer which share of an expert's traffic. What is not given stays."""
    from zfleet_registry.promotion import Traffic, set_traffic, traffic_of

    given = dict(_share(text) for text in shares or ())
    experts, version = _expert(name, registry, base)
    aliases = experts.aliases(version.base_slug, version.name)
    if given or shadow is not None:
        before = Traffic() if given and shadow is not None else traffic_of(aliases)
        set_traffic(aliases, Traffic(given or before.shares, before.shadow if shadow is None else shadow), why)
    stored = asdict(traffic_of(aliases))
    if as_json:
        typer.echo(json.dumps(stored))
    else:
        print_fields(stored | {"shares": stored["shares"] or {CHAMPION: 100}}, f"traffic of {aliases.expert}, %")


def _load_gate(file: Path) -> GateSpec:
    """Read a gate, with the text of its keys: the log keeps it, and is read elsewhere."""
    gate = load_spec(file, GateSpec)
    return gate.model_copy(update={"signed_by": read_public_keys(gate.signed_by)})


def _expert(name: str, registry: str | None, base: str | None) -> tuple[ExpertRegistry, ExpertVersion]:
    """Find an expert, by any of its versions."""
    from zfleet_registry import ExpertRegistry

    experts = ExpertRegistry(registry)
    return experts, find_version(experts, name, base)


def _share(text: str) -> tuple[str, int]:
    alias, separator, percent = text.partition("=")
    if not separator or not percent.isdecimal() or not percent.isascii() or len(percent) > 3:
        raise SpecError(f"share {text[:100]!r} cannot be read", "write it as ALIAS=PERCENT: champion=90")
    return alias, int(percent)


def _print_outcome(outcome: Outcome, alias: str, as_json: bool) -> None:
    entry = outcome.entry
    if as_json:
        values: dict[str, Any] = {
            "version": outcome.version,
            "alias": alias,
            "present": outcome.present,
            "promoted": outcome.promoted,
            "what": None if entry is None else entry.action.what,
            "entry": None if entry is None else entry.number,
            "decision": None if outcome.decision is None else outcome.decision.to_plain(),
        }
        typer.echo(json.dumps(values, indent=2))
        return
    if outcome.decision is not None:
        print_rows(outcome.decision.checks, f"{outcome.version} against {outcome.present or 'the base'}")
    done = "refused" if not outcome.promoted else "would be promoted" if entry is None else f"is {alias} now"
    if entry is None and outcome.present and outcome.version.endswith(f".{outcome.present}"):
        done = f"is {alias} already"
    number = "" if entry is None else f" (entry {entry.number} of the log)"
    typer.echo(f"{outcome.version}: {done}{number}")

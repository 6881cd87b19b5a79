"""Promote a version to an alias: the gate judges, the log records, the alias moves. And back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zfleet.config.gate import GateSpec
from zfleet.errors import ExpertNotFound, RegistryError
from zfleet_registry.log import Action, Entry, State
from zfleet_registry.promotion.gates import gate_of
from zfleet_registry.promotion.judge import Decision, judge
from zfleet_registry.promotion.signed import check_signature
from zfleet_registry.references import check_alias
from zfleet_registry.who import current_user

if TYPE_CHECKING:
    from zfleet.evaluate.evidence import Evidence
    from zfleet_registry.aliases import Aliases
    from zfleet_registry.log import What
    from zfleet_registry.registry import ExpertRegistry
    from zfleet_registry.version import ExpertVersion


@dataclass(frozen=True)
class Outcome:
    """What became of a promotion.

    Attributes:
        version: The candidate, qualified by its base.
        present: The version that the alias had, such as ``math/6``; empty if it had none.
        decision: The gate's; None if the alias has no gate, or there was no evidence.
        promoted: Whether the alias points at the candidate now, or would without ``dry_run``.
        entry: In the log; None if nothing was done.
    """

    version: str
    present: str
    decision: Decision | None
    promoted: bool
    entry: Entry | None


def present_of(registry: ExpertRegistry, version: ExpertVersion, alias: str) -> ExpertVersion | None:
    """Return the version that an alias of the same expert has; None if it has none."""
    found = registry.aliases(version.base_slug, version.name).present().get(alias)
    return None if found is None else registry.resolve(f"{version.name}/{found}", version.base_slug)


def promote(
    registry: ExpertRegistry,
    version: ExpertVersion,
    alias: str,
    *,
    evidence: Evidence | None = None,
    gate: GateSpec | None = None,
    force: bool = False,
    why: str = "",
    dry_run: bool = False,
) -> Outcome:
    """Point an alias at a version if the version passes the alias's gate.

    Args:
        registry: The registry.
        version: The candidate.
        alias: The alias.
        evidence: What an evaluation shows of the candidate and the present version.
        gate: For an alias without a gate of its own; none: every version passes.
        force: Promote whatever the gate says. It is recorded as that.
        why: For the log; required by ``force``.
        dry_run: Judge, and change and record nothing.

    Returns:
        What happened; a version that did not pass is refused without an error, and the refusal is in the log.

    Raises:
        RegistryError: The evidence is missing or of other versions; there are two gates; the alias was moved without
            the log, or by another command meanwhile.
    """
    check_alias(alias)
    if force and not why.strip():
        raise RegistryError("a forced promotion has no reason", "say it: --force --why TEXT")
    aliases = registry.aliases(version.base_slug, version.name)
    state = aliases.log.state
    present = present_of(registry, version, alias)
    _check_in_step(aliases, state, alias, present)
    name = "" if present is None else present.reference
    if present is not None and present.version == version.version:
        return Outcome(version.qualified, name, None, True, None)
    chosen = _the_gate(aliases, state, alias, gate)
    decision = None
    record: Mapping[str, Any] = {}
    if evidence is not None:
        _check_evidence(evidence, version, present)
        record = {"evidence": evidence.to_plain()}
        if chosen is not None:
            decision = judge(chosen, evidence, current_user(), check_signature(registry, version, chosen))
            record |= {"gate": chosen.model_dump(mode="json"), "decision": decision.to_plain()}
    elif chosen is not None and not force:
        raise RegistryError(
            f"alias {alias!r} of {aliases.expert} has a gate, and there is no evidence",
            "give a finished evaluation of both versions (--evidence FOLDER), or a spec to evaluate (--evaluate SPEC)",
        )
    passed = chosen is None or (decision is not None and decision.passed)
    what: What = "promote" if passed else "force" if force else "refuse"
    if dry_run:
        return Outcome(version.qualified, name, decision, what != "refuse", None)
    action = Action(
        what,
        aliases.expert,
        alias,
        version.version,
        found=None if present is None else present.version,
        relies_on=state.chosen_by(alias),
        gate=state.gates.get(alias, 0),
        why=why,
        evidence=record,
    )
    entry = aliases.log.append(action) if what == "refuse" else aliases.move(action)
    return Outcome(version.qualified, name, decision, what != "refuse", entry)


def rollback(registry: ExpertRegistry, base_slug: str, name: str, alias: str, why: str = "") -> Entry:
    """Point an alias at the version that it had before. Again, it goes back one more.

    A gate does not judge this: the version was in place before.

    Args:
        registry: The registry.
        base_slug: The base.
        name: The expert.
        alias: The alias.
        why: For the log.

    Raises:
        RegistryError: The log has no earlier version of this alias, or another command moved it meanwhile.
        ExpertNotFound: The earlier version does not exist any more.
    """
    aliases = registry.aliases(base_slug, name)
    position = aliases.log.state.aliases.get(alias)
    earlier = None if position is None else aliases.log.choice_before(alias, position)
    if position is None or earlier is None or earlier.version is None:
        raise RegistryError(
            f"the log of {aliases.expert} has no version that {alias!r} had before",
            f"look at `zfleet experts history {aliases.expert}`, and promote a version that exists",
        )
    try:
        registry.resolve(f"{name}/{earlier.version}", base_slug)
    except ExpertNotFound as error:
        raise ExpertNotFound(
            f"{alias!r} of {aliases.expert} was version {earlier.version} before, which was deleted",
            "promote a version that exists",
        ) from error
    action = Action(
        "rollback",
        aliases.expert,
        alias,
        earlier.version,
        found=aliases.present().get(alias),
        relies_on=position.entry,
        returns_to=earlier.entry,
        why=why,
    )
    return aliases.move(action)


def _the_gate(aliases: Aliases, state: State, alias: str, given: GateSpec | None) -> GateSpec | None:
    own = gate_of(aliases, state, alias)
    if own is not None and given is not None:
        raise RegistryError(
            f"alias {alias!r} of {aliases.expert} has a gate of its own (entry {state.gates[alias]} of the log)",
            "leave out --gate, or change the gate: zfleet experts protect",
        )
    if given is not None and given.alias != alias:
        raise RegistryError(f"the gate is for the alias {given.alias!r}, not {alias!r}", "correct its key `alias`")
    return own or given


def _check_in_step(aliases: Aliases, state: State, alias: str, present: ExpertVersion | None) -> None:
    found = None if present is None else present.version
    if alias in state.aliases and state.version_of(alias) != found:
        raise RegistryError(
            f"alias {alias!r} of {aliases.expert} is at version {found} in MLflow and at {state.version_of(alias)} in "
            "the log: a command was cut short, or it was moved without zfleet",
            "put it where the log has it, then promote: zfleet experts fsck --repair",
        )


def _check_evidence(evidence: Evidence, version: ExpertVersion, present: ExpertVersion | None) -> None:
    wanted = {"candidate": version.z_digest, "present": "" if present is None else present.z_digest}
    for side, digest in wanted.items():
        if getattr(evidence, side) != digest:
            raise RegistryError(
                f"the evidence's {side} is z {getattr(evidence, side)[:12] or 'of the base'}, but this promotion's is "
                f"{digest[:12] or 'the base'}",
                "evaluate the candidate and the version that the alias has now",
            )

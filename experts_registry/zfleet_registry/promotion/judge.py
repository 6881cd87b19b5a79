"""Judge evidence by a gate. Numbers in, a table of checks out: nothing is read or written here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zfleet.config.gate import GateSpec
    from zfleet.evaluate.evidence import Evidence
    from zfleet.evaluate.statistics.estimate import Estimate


@dataclass(frozen=True)
class Check:
    """One requirement of a gate.

    Attributes:
        check: What is checked.
        required: What the gate requires.
        measured: What was measured.
        passed: Whether it is enough.
    """

    check: str
    required: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Decision:
    """The checks of a gate, in its order."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    def to_plain(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def judge(gate: GateSpec, evidence: Evidence, approver: str, signature: Check | None = None) -> Decision:
    """Compare evidence with a gate.

    Args:
        gate: What is required.
        evidence: The candidate against the present version, or against the base if there is none.
        approver: Who promotes.
        signature: The check of the candidate's signature; None if the gate has no ``signed_by``.
    """
    checks = [_difference("gain", task, evidence, gate.gain) for task in gate.tasks]
    guarded: Sequence[str] = ()
    if gate.guard is not None:
        guarded = gate.guard.tasks
        checks += [_difference("guard", task, evidence, -gate.guard.loss) for task in guarded]
    if gate.latency is not None:
        checks += [_latency(task, evidence, gate.latency) for task in (*gate.tasks, *guarded)]
    if gate.approvers:
        checks.append(Check("approver", ", ".join(gate.approvers), approver, approver in gate.approvers))
    if signature is not None:
        checks.append(signature)
    return Decision(tuple(checks))


def _difference(kind: str, task: str, evidence: Evidence, least: float) -> Check:
    name, required = f"{kind} on {task}", f"at least {least:+.1f}"
    if task not in evidence.tasks:
        return Check(name, required, "not measured", False)
    found = evidence.tasks[task]
    # Without an interval, nothing is shown. 1e-9: sums of floats are not exact.
    passed = found.difference.low is not None and 100 * found.difference.low >= least - 1e-9
    return Check(name, required, f"{_points(found.difference)}, {found.prompts} prompts", passed)


def _latency(task: str, evidence: Evidence, most: float) -> Check:
    name, required = f"latency on {task}", f"at most {most:g} times"
    slower = evidence.tasks[task].slower if task in evidence.tasks else None
    if slower is None:
        return Check(name, required, "not measured", False)
    return Check(name, required, f"{slower:.2f} times", slower <= most)


def _points(difference: Estimate) -> str:
    if difference.low is None or difference.high is None:
        return f"{100 * difference.mean:+.1f}, no interval"
    return f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"

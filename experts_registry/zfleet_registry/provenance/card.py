"""The model card of a version, in Markdown: for people who find the file, and for MLflow's page of the version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from zfleet_registry.catalog import LONGEST_DESCRIPTION
from zfleet_registry.provenance.record import Parent, Provenance
from zfleet_registry.provenance.registration import Registration
from zfleet_registry.references import model_name, parse

FILE = "card.md"


def card(title: str, provenance: Provenance, registration: Registration | None) -> str:
    """Write the model card of an expert, a mixture or a dispatcher.

    Args:
        title: The name, such as ``lab-1a2b3c4d.math``, or with its version.
        provenance: The origin of the z.
        registration: Who registered it and when; None if that is not known.
    """
    parts = [_summary(title, provenance, registration, "`{}`".format)]
    if provenance.spec:
        parts.append(f"## Spec\n\n```json\n{_indented(provenance.spec)}\n```")
    return "\n\n".join(parts) + "\n"


def description(title: str, provenance: Provenance, registration: Registration | None) -> str:
    """Write the card without its spec, as long as a description in MLflow may be. Parents are links to their pages."""
    text = _summary(title, provenance, registration, _link)
    more = "\n\n(cut: the whole card is among the run's artifacts)"
    return text if len(text) <= LONGEST_DESCRIPTION else text[: LONGEST_DESCRIPTION - len(more)] + more


def _summary(title: str, provenance: Provenance, registration: Registration | None, named: Callable[[str], str]) -> str:
    made = {} if registration is None else {"base": registration.base_name}
    facts = {
        **made,
        "base fingerprint": provenance.base,
        "factors digest": provenance.factors,
        "targets": provenance.targets,
        "z digest": provenance.z_digest,
        "dispatcher digest": provenance.dispatcher_digest,
        "task": provenance.task,
        "task digest": provenance.task_digest,
        "data digest": provenance.data_digest,
        "parametrisation": provenance.parametrisation,
        "seed": "" if provenance.seed is None else str(provenance.seed),
        "code": provenance.code_version,
        "carried from": provenance.carried_from,
        "imported from": provenance.imported_from,
        "transferred from base": provenance.source_base,
        "licence": provenance.licence,
    }
    parts = [f"# {title}", f"Made by zfleet. Kind: {provenance.kind}.", _table(("what", "value"), facts.items())]
    if provenance.parents:
        rows = [(named(parent.reference), f"`{parent.z_digest[:12]}`", _alpha(parent)) for parent in provenance.parents]
        parts.append(f"## Parents\n\n{_table(('version', 'z digest', 'alpha'), rows)}")
    if provenance.metrics:
        metrics = [(name, _number(value), _interval(provenance, name)) for name, value in provenance.metrics.items()]
        parts.append(f"## Results\n\n{_table(('metric', 'value', '95 % interval'), metrics)}")
    if registration is not None:
        who = {"by": registration.who, "time": registration.time, "run": registration.run_id, **registration.packages}
        parts.append(f"## Registered\n\n{_table(('what', 'value'), who.items())}")
    return "\n\n".join(parts)


def _link(reference: str) -> str:
    """Return a link to a version's page, relative to MLflow's address."""
    parsed = parse(reference)
    if parsed.base_slug is None or parsed.version is None:
        return f"`{reference}`"
    return f"[{reference}](#/models/{model_name(parsed.base_slug, parsed.name)}/versions/{parsed.version})"


def _table(names: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    head = list(names)
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows if any(row[1:]))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Escape what would end a cell of a table, or start HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _alpha(parent: Parent) -> str:
    if isinstance(parent.alpha, Mapping):
        return ", ".join(f"{name} {value:.4g}" for name, value in parent.alpha.items())
    numbers = (parent.alpha,) if isinstance(parent.alpha, int | float) else parent.alpha
    return ", ".join(f"{number:.4g}" for number in numbers)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _interval(provenance: Provenance, name: str) -> str:
    if name not in provenance.intervals:
        return ""
    low, high = provenance.intervals[name]
    return f"{low:.4g} to {high:.4g}"


def _indented(spec: str) -> str:
    try:
        return json.dumps(json.loads(spec), indent=1, ensure_ascii=False)
    except ValueError:
        return spec

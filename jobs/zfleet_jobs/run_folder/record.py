"""Record of what a run was started with: the same name goes on with it, and with nothing else."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zfleet.config.load import apply_overrides, parse_spec
from zfleet.config.specs import TrainSpec
from zfleet.errors import JobError, SpecError
from zfleet_jobs.run_folder.plan import Plan
from zfleet_jobs.run_folder.storage import Storage
from zfleet_registry.address import address_of

FILE = "run.json"
log = logging.getLogger(__name__)

CHANGES = {
    "task": "what it learns from",
    "data": "what it learns from",
    "reward": "what it is graded by",
    "learner": "how it learns",
    "start": "where it begins",
    "factors": "its base: a z means something only on the factors it was trained on",
    "device": "how numbers are rounded, and so its z",
    "dtype": "how numbers are rounded, and so its z",
    "engine": "how numbers are rounded, and so its z",
    "cohort": "how numbers are rounded, and so its z",
    "num_workers": "how numbers are rounded, and so its z",
    "split": "how numbers are rounded, and so its z",
    "eval": "what its accuracy is measured on",
}
"""What a key of ``Plan.depends`` changes."""
_OWN = ("task", "data", "reward", "learner", "start")
"""Keys of ``Plan.depends`` that each expert has to itself; the experts of a run share the others."""
_ELSEWHERE = (
    *(
        "kind",
        "run",
        "storage",
        "experts",
        "learner",
        "engine",
        "cohort",
        "num_workers",
        "eval_samples",
        "eval_temperature",
    ),
    *("base.device", "base.dtype", "split"),
)
"""Keys of a spec that say nothing of where and how it runs, or that ``Plan.depends`` has."""


_LONGEST_VALUE = 60


@dataclass(frozen=True)
class _Difference:
    """One key of ``Plan.depends``."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} {_short(self.old)} -> {_short(self.new)}"


def record(storage: Storage, spec: TrainSpec, plans: Sequence[Plan]) -> None:
    """Record what a run is started with, or check that it goes on with the same.

    Experts may be added. Changes of where and how the run goes are logged, and recorded.

    Args:
        storage: The run's folder.
        spec: The job.
        plans: Of all its experts.

    Raises:
        SpecError: It was started with something else; says which keys differ, and what they would change.
        JobError: The record cannot be read or written.
    """
    before = _read(storage)
    experts: dict[str, Any] = {plan.expert.name: json.loads(plan.spec) for plan in plans}
    # Credentials are not recorded.
    new = spec.model_dump(mode="json", exclude={"storage"}) | {"registry": spec.registry and address_of(spec.registry)}
    if before is not None:
        _refuse_changes(spec.run, storage, before["experts"], experts)
        _tell_changes(spec.run, before["spec"], new)
        old = TrainSpec.model_validate(before["spec"])
        absent = [expert for expert in old.experts if expert.name not in experts]
        new["experts"] += [
            expert.model_copy(update={"learner": old.learner_of(expert).model_dump()}).model_dump(mode="json")
            for expert in absent
        ]
        experts = before["experts"] | experts
    what = {
        "spec": new,
        "experts": experts,
        "folder": _from(storage),
        "registry_is_whole": new["registry"] == spec.registry,
    }
    storage.put(FILE, json.dumps(what, indent=1).encode())


def recorded_spec(run: str, overrides: Sequence[str] = ()) -> TrainSpec:
    """Read the spec that a run was last started with.

    Args:
        run: Its name.
        overrides: As for ``load_spec``; ``storage`` says where the run is, if it is not the default.

    Raises:
        SpecError: There is no such run, or the registry must be said again.
        JobError: The record cannot be read.
    """
    overridden: dict[str, Any] = {}
    apply_overrides(overridden, [one for one in overrides if one.startswith(("storage=", "registry="))])
    place = str(overridden.get("storage", TrainSpec.model_fields["storage"].default))
    check_started(place, run)
    storage = Storage.at(place, run)
    stored = _read(storage)
    assert stored is not None
    if not stored["registry_is_whole"] and "registry" not in overridden:
        raise SpecError(
            f"run {run!r} has its registry at {stored['spec']['registry']}: user and password were not written down",
            "give the whole URI again: --set registry=URI",
        )
    folder = _started_in(storage, stored["folder"])
    if folder != Path.cwd():
        log.warning("run %s was started in %s: relative paths of its spec mean other files here", run, folder)
    data: dict[str, Any] = stored["spec"] | {"run": run, "storage": place}
    apply_overrides(data, overrides)
    return parse_spec(data, TrainSpec, f"run {run!r}")


def check_started(place: str, run: str) -> None:
    """Refuse to resume what was never started.

    Raises:
        SpecError: There is no such run; says which there are.
    """
    if Storage.at(place, run).get(FILE) is None:
        names = [name for name in Storage.at(place).names() if Storage.at(place, name).get(FILE) is not None]
        raise SpecError(
            f"--resume {run!r}: there is no such run in {place}",
            f"runs there: {', '.join(names) or 'none'}; --set storage=FOLDER looks elsewhere",
        )


def _read(storage: Storage) -> dict[str, Any] | None:
    data = storage.get(FILE)
    if data is None:
        return None
    try:
        stored = json.loads(data)
        TrainSpec.model_validate(stored["spec"])
        return {key: stored[key] for key in ("spec", "experts", "folder", "registry_is_whole")}
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"{storage.place}/{FILE} is damaged, or of another version of zfleet: {str(error).splitlines()[0]}",
            "give this job a run of its own (--set run=NAME), or move that folder away",
        ) from error


def _from(storage: Storage) -> str:
    """Return the current folder relative to the run's, as the two may be moved together."""
    return str(Path.cwd()) if storage.local is None else os.path.relpath(Path.cwd(), storage.local)


def _started_in(storage: Storage, folder: str) -> Path:
    """Resolve the folder that ``_from`` wrote, as it would be now."""
    return Path(os.path.normpath((storage.local or Path()) / folder))


def _refuse_changes(run: str, storage: Storage, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    experts: dict[str, list[str]] = {}
    for name, depends in now.items():
        # An expert that is added shares all keys with the others that are not an expert's own.
        old = before.get(name) or {key: value for key, value in _any(before).items() if key not in _OWN}
        new = depends if name in before else {key: value for key, value in depends.items() if key not in _OWN}
        differences = _differences(old, new)
        if any(one.key.startswith("task.reward") for one in differences):
            differences = [one for one in differences if one.key != "reward"]  # the same change, seen in the code
        for one in differences:
            key = "reward" if one.key.startswith("task.reward") else one.key.partition(".")[0]
            experts.setdefault(f"{one} (would change {CHANGES[key]})", []).append(name)
    if experts:
        raise SpecError(
            f"run {run!r} in {storage.place} was started with another spec: "
            + "; ".join(f"{text} of {', '.join(names)}" for text, names in experts.items()),
            f"give the new spec a run of its own (--set run=NAME), or go on as it began (zfleet train --resume {run})",
        )


def _tell_changes(run: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old, new = ({key: value for key, value in spec.items() if key not in _ELSEWHERE} for spec in (before, now))
    changed = [str(one) for one in _differences(old, new) if one.key not in _ELSEWHERE]
    if changed:
        log.warning("run %s goes on, with changes in where and how it runs: %s", run, "; ".join(changed))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[_Difference]:
    differences = []
    for key in dict.fromkeys((*old, *new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            differences += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            differences.append(_Difference(f"{prefix}{key}", a, b))
    return differences


def _any(experts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(next(iter(experts.values())))


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= _LONGEST_VALUE else f"{text[:20]}...{text[-20:]}"

"""Measure every cell: who answers each prompt, then all answers together, and last the oracle, which knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zfleet.config.evaluate import ORACLE
from zfleet.evaluate.answering import Ask
from zfleet.evaluate.cells import CellKey, Mixture
from zfleet.evaluate.first_pass import FirstPass
from zfleet.evaluate.splits import row_digest
from zfleet.evaluate.ways import Way, keys_of, ways_of
from zfleet.tasks.task import Sample
from zfleet_jobs.evaluate.answers import Answers
from zfleet_jobs.evaluate.cell_files import CellRow
from zfleet_jobs.evaluate.choices import Drawn, best_prompts, best_singles
from zfleet_jobs.evaluate.prepared import Mixtures, Prepared
from zfleet_jobs.run_folder.storage import Storage


@dataclass(frozen=True)
class MeasuredCell:
    """The answers of one cell.

    Attributes:
        key: Which cell.
        way: Its way.
        own_task: Whether the way is an expert that was trained on the task; None for other ways, or if unknown.
        rows: One for each test prompt.
    """

    key: CellKey
    way: Way
    own_task: bool | None
    rows: Sequence[CellRow]


@dataclass(frozen=True)
class _Choice:
    """Who answers one prompt.

    Attributes:
        sample: The prompt, as the task has it.
        asked: As it is put to the engine.
        mixture: Whose z answers.
        first: The first pass, if there was one.
    """

    sample: Sample
    asked: Sample
    mixture: Mixture
    first: FirstPass | None = None


def measure(
    prepared: Prepared, found: Mapping[CellKey, Mixture], mixtures: Mixtures, answers: Answers, storage: Storage
) -> list[MeasuredCell]:
    """Measure all cells of an evaluation.

    Args:
        prepared: The evaluation.
        found: The mixture that each search found.
        mixtures: Makes the z that the pool of ``answers`` answers under.
        answers: Computes what is not known.
        storage: Where evaluations keep their answers.

    Raises:
        ZfleetError: A worker failed; what is done is kept.
    """
    singles = best_singles(prepared, answers, storage)
    prompts = best_prompts(prepared, answers)
    passes = answers.first_passes()
    chosen: dict[CellKey, tuple[Way, list[_Choice]]] = {}
    for task in prepared.tasks:
        for way in ways_of(prepared.spec, list(prepared.experts)):
            for key in keys_of(prepared.spec, way, task):
                choices = _choices(prepared, way, key, found, singles, prompts, passes)
                if choices is not None:
                    chosen[key] = (way, choices)
    asks = {
        key: [Ask(one.asked, mixtures.digest(one.mixture), key.seed or 0) for one in choices]
        for key, (_, choices) in chosen.items()
    }
    answers.ask(
        "answers", {task: [ask for key in asks if key.task == task for ask in asks[key]] for task in prepared.tasks}
    )
    cells = {
        key: MeasuredCell(
            key, way, _own_task(prepared, way, key.task), _rows(prepared, key.task, choices, asks[key], answers)
        )
        for key, (way, choices) in chosen.items()
    }
    return _with_oracles(prepared, cells)


def _choices(
    prepared: Prepared,
    way: Way,
    key: CellKey,
    found: Mapping[CellKey, Mixture],
    singles: Mapping[Drawn, str],
    prompts: Mapping[str, str],
    passes: Mapping[tuple[str, str], Sequence[FirstPass]],
) -> list[_Choice] | None:
    """Choose who answers each test prompt of a cell; None for an oracle that has to see the answers first."""
    test = prepared.splits[key.task].test
    if way.kind == "prompt":
        return [_Choice(sample, prepared.prompted(sample, prompts[key.task]), {}) for sample in test]
    if way.kind == "dispatcher":
        decided = passes[way.name, key.task]
        return [_Choice(sample, sample, first.mixture, first) for sample, first in zip(test, decided, strict=True)]
    if way.kind == "oracle":
        owners = [prepared.own(sample) for sample in test]
        if not any(owners):
            return None
        return [
            _Choice(sample, sample, {owner: 1.0} if owner else {}) for sample, owner in zip(test, owners, strict=True)
        ]
    mixture: Mixture = {}
    if way.kind == "expert":
        mixture = {way.name: 1.0}
    elif way.kind == "uniform":
        mixture = dict.fromkeys(prepared.experts, 1 / len(prepared.experts))
    elif way.kind == "best-single":
        assert key.shots is not None
        assert key.draw is not None
        mixture = {singles[key.task, key.shots, key.draw]: 1.0}
    elif way.kind == "search":
        mixture = found[key]
    return [_Choice(sample, sample, mixture) for sample in test]


def _rows(
    prepared: Prepared, task: str, choices: Sequence[_Choice], asks: Sequence[Ask], answers: Answers
) -> list[CellRow]:
    rows = []
    for choice, ask in zip(choices, asks, strict=True):
        given = answers(task, ask)
        rows.append(
            CellRow(
                sample=choice.sample,
                row=row_digest(choice.sample),
                cluster=prepared.cluster(task, choice.sample),
                own=prepared.own(choice.sample),
                asked=choice.asked.prompt,
                mixture=choice.mixture,
                z=ask.z_digest,
                answer=given,
                reward=given.reward,
                first=choice.first,
            )
        )
    return rows


def _own_task(prepared: Prepared, way: Way, task: str) -> bool | None:
    own = prepared.own_tasks.get(way.name) if way.kind == "expert" else None
    return None if own is None else task in own


def _with_oracles(prepared: Prepared, cells: Mapping[CellKey, MeasuredCell]) -> list[MeasuredCell]:
    """Add the oracles of tasks whose rows do not say their kind: the base or the expert that is best on the test."""
    found = dict(cells)
    (oracle,) = (way for way in ways_of(prepared.spec, ()) if way.kind == ORACLE)
    for task in prepared.tasks:
        for key in keys_of(prepared.spec, oracle, task):
            if key in cells:
                continue
            single = [
                cell for cell in cells.values() if cell.way.kind in ("base", "expert") and cell.key == _like(key, cell)
            ]
            found[key] = MeasuredCell(key, oracle, None, max(single, key=_right).rows)
    return list(found.values())


def _like(key: CellKey, cell: MeasuredCell) -> CellKey:
    return CellKey(key.task, cell.way.name, key.shots, key.draw, key.seed)


def _right(cell: MeasuredCell) -> int:
    return sum(row.reward is not None and row.reward > 0 for row in cell.rows)

"""A whole measurement on the embedded engine and a tiny base, in this process: what workers do, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import ExpertNotFound
from zfleet.evaluate.cells import CellKey
from zfleet.evaluate.graded import evaluate
from zfleet_jobs.evaluate.answerer import Answerer, Result, Work
from zfleet_jobs.evaluate.answers import Answers
from zfleet_jobs.evaluate.measure import measure
from zfleet_jobs.evaluate.prepared import Mixtures
from zfleet_jobs.run_folder.storage import Storage
from zfleet_registry.references import model_name

VOWELS = {"kind": "regex", "value": r"^\s*[aeiou02468]"}
"""A reward that a random base gets right sometimes, so that ways differ."""


def test_ways_that_share_a_batch_answer_as_each_does_alone(make_project: Any) -> None:
    project = make_project()
    prepared = project.ready(
        tasks={name: project.task(name, reward=VOWELS) for name in ("flip", "turn")},
        prompts={"plain": "{prompt}", "twice": "{prompt} {prompt}"},
        dispatchers={"asks-base": {}, "asks-expert": {"classifier": "turn"}},
    ).prepared
    # An expert that is deleted during the run does not disturb it: its z was loaded at the start.
    project.registry._client.delete_model_version(model_name(project.base.slug, "turn"), "1")
    mixtures, tokenizer = Mixtures(prepared), project.base.tokenizer()
    with SyncEngine(TorchEngine(project.base.open(), EngineSpec(slots=16, z_rows=4))) as engine:
        answerer = Answerer(engine, tokenizer, prepared.tasks, frozenset(), 0.0)

        def pool(work: Sequence[Work]) -> Iterator[tuple[Work, Result]]:
            for one in work:
                yield one, answerer(one, {digest: mixtures.by_digest[digest] for digest in one.z_digests})

        storage = Storage.at(str(project.folder / "answers"))
        answers = Answers(prepared, storage, pool, lambda progress: None)
        cells = {cell.key: cell for cell in measure(prepared, {}, mixtures, answers, storage)}
        for task, parts in prepared.splits.items():
            for way, z in (("base", None), ("flip/1", prepared.experts["flip/1"])):
                digest = BASE_Z if z is None else engine.put_z(z)
                alone = evaluate(engine, tokenizer, prepared.tasks[task], parts.test, digest)
                rows = cells[CellKey(task, way)].rows
                assert [row.answer.completion for row in rows if row.answer] == list(alone.texts)
                assert [row.reward for row in rows] == list(alone.graded)
    with pytest.raises(ExpertNotFound):
        project.ready()
    decided = cells[CellKey("turn", "asks-expert")].rows
    assert all(row.first is not None and 0 <= (row.first.confidence or 0.0) <= 1 for row in decided)
    assert all(row.answer is not None and row.answer.tokens > 0 for cell in cells.values() for row in cell.rows)
    assert {row.z for row in cells[CellKey("turn", "best-single", 3, 0)].rows} <= {
        z.digest for z in prepared.experts.values()
    }

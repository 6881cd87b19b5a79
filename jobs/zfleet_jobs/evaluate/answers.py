"""The answers of an evaluation: a cache has them, or workers compute them in batches that all ways share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from zfleet.evaluate.answering import Answer, Ask
from zfleet.evaluate.first_pass import FirstPass
from zfleet_jobs.evaluate.answer_cache import AnswerCache, FirstPassCache
from zfleet_jobs.evaluate.answerer import AnswerBatch, FirstPassBatch, Pool, Result, SinglesBatch, Work
from zfleet_jobs.evaluate.identity import answer_key, asked_digest
from zfleet_jobs.evaluate.prepared import Prepared
from zfleet_jobs.run_folder.storage import Storage

_FILLINGS = 4
"""How often a batch fills the slots of an engine: at the end of a batch some of them stand empty."""

T = TypeVar("T")


@dataclass(frozen=True)
class StageProgress:
    """How far a stage of an evaluation is.

    Attributes:
        stage: What it computes.
        done: How many.
        total: How many there are, without those that were known.
    """

    stage: str
    done: int
    total: int


OnProgress = Callable[[StageProgress], None]
"""Called when a stage begins, and after every batch."""


class Answers:
    """Computes answers and first passes once each, and remembers them in files.

    Args:
        prepared: The evaluation.
        storage: Where evaluations keep their answers.
        pool: Does the work.
        on_progress: Is told how far each stage is.
    """

    def __init__(self, prepared: Prepared, storage: Storage, pool: Pool, on_progress: OnProgress) -> None:
        self._prepared = prepared
        self._storage = storage
        self._pool = pool
        self._tell = on_progress
        self._temperature = prepared.spec.temperature
        self._batch = prepared.spec.engine.slots * _FILLINGS
        self._answers = {
            name: AnswerCache(storage, prepared.engine.setting(task, self._temperature))
            for name, task in prepared.tasks.items()
        }

    def ask(self, stage: str, wanted: Mapping[str, Iterable[Ask]]) -> None:
        """Compute the answers that are not known yet.

        Args:
            stage: What they are for.
            wanted: {task: prompts}; the same may come several times.

        Raises:
            ZfleetError: A worker failed; what is done is kept.
        """
        batches: list[AnswerBatch] = []
        for task, asks in wanted.items():
            missing = {
                key: ask for ask in asks if (key := answer_key(ask, self._temperature)) not in self._answers[task]
            }
            # One prompt under many z beside the next: every batch is shared by all ways.
            ordered = sorted(missing, key=lambda key: (key.asked, key.seed, key.z))
            batches += [AnswerBatch(task, tuple(missing[key] for key in part)) for part in _parts(ordered, self._batch)]
        for work, result in self._run(stage, batches, lambda batch: len(batch.asks)):
            found = cast(Sequence[Answer], result)
            keys = [answer_key(ask, self._temperature) for ask in work.asks]
            self._answers[work.task].add(dict(zip(keys, found, strict=True)))

    def __call__(self, task: str, ask: Ask) -> Answer:
        """Return an answer that was asked for."""
        return self._answers[task][answer_key(ask, self._temperature)]

    def first_passes(self) -> dict[tuple[str, str], list[FirstPass]]:
        """Run the first pass of every dispatcher on every test prompt.

        Returns:
            {(dispatcher, task): first passes, in the order of the test}.

        Raises:
            ZfleetError: As ``ask``.
        """
        caches = {
            name: FirstPassCache(self._storage, self._prepared.engine.first_pass(stored.digest))
            for name, stored in self._prepared.dispatchers.items()
        }
        tests = {
            task: {asked_digest(sample): sample for sample in parts.test}
            for task, parts in self._prepared.splits.items()
        }
        batches = [
            FirstPassBatch(task, name, stored, tuple(test[asked] for asked in part))
            for name, stored in self._prepared.dispatchers.items()
            for task, test in tests.items()
            for part in _parts([asked for asked in test if asked not in caches[name]], self._batch)
        ]
        for work, result in self._run("first passes", batches, lambda batch: len(batch.samples)):
            found = cast(Sequence[FirstPass], result)
            asked = [asked_digest(sample) for sample in work.samples]
            caches[work.dispatcher].add(dict(zip(asked, found, strict=True)))
        return {
            (name, task): [cache[asked] for asked in test]
            for name, cache in caches.items()
            for task, test in tests.items()
        }

    def singles(self, wanted: Sequence[SinglesBatch]) -> Iterator[tuple[SinglesBatch, Result]]:
        """Score every single expert on shots.

        Raises:
            ZfleetError: As ``ask``.
        """
        return self._run("single experts on the shots", wanted, lambda batch: len(batch.shots) * len(batch.experts))

    def _run(self, stage: str, work: Sequence[T], size: Callable[[T], int]) -> Iterator[tuple[T, Result]]:
        """Have the pool do work, and tell how far it is after each part was taken."""
        done, total = 0, sum(map(size, work))
        if not work:
            return
        self._tell(StageProgress(stage, 0, total))
        for one, result in self._pool(cast(Sequence[Work], work)):
            yield cast(T, one), result
            done += size(cast(T, one))
            self._tell(StageProgress(stage, done, total))


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]

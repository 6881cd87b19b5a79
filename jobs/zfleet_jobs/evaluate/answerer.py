"""What a worker of an evaluation does: answer prompts, run first passes, and score single experts on shots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from zfleet.adapt.stored import StoredDispatcher
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z
from zfleet.evaluate.answering import Answer, Ask, answer
from zfleet.evaluate.first_pass import FirstPass
from zfleet.search.method import Score
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Sample, Task
from zfleet_jobs.decisions import asked_by
from zfleet_jobs.evaluate.dispatchers import first_passes
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.scoring import measure_candidates
from zfleet_jobs.search.settings import SearchSettings


@dataclass(frozen=True)
class AnswerBatch:
    """Prompts of one task to answer, each under its own z.

    Attributes:
        task: The task's key.
        asks: The prompts.
    """

    task: str
    asks: tuple[Ask, ...]

    @property
    def z_digests(self) -> set[str]:
        """The z that the engine must know."""
        return {ask.z_digest for ask in self.asks} - {BASE_Z}


@dataclass(frozen=True)
class FirstPassBatch:
    """Prompts of one task to dispatch.

    Attributes:
        task: The task's key.
        dispatcher: The dispatcher's name.
        stored: The dispatcher.
        samples: The prompts.
    """

    task: str
    dispatcher: str
    stored: StoredDispatcher
    samples: tuple[Sample, ...]

    @property
    def z_digests(self) -> set[str]:
        """The z that the engine must know."""
        return set(asked_by(self.stored).values())


@dataclass(frozen=True)
class SinglesBatch:
    """Shots to score every single expert on.

    Attributes:
        task: The task's key.
        draw: Which draw of shots they are.
        shots: The prompts.
        experts: Digests of the experts, in order.
    """

    task: str
    draw: int
    shots: tuple[Sample, ...]
    experts: tuple[str, ...]

    @property
    def z_digests(self) -> set[str]:
        """The z that the engine must know."""
        return set(self.experts)


Work = AnswerBatch | FirstPassBatch | SinglesBatch
Result = Sequence[Answer] | Sequence[FirstPass] | Sequence[Score]
Pool = Callable[[Sequence[Work]], Iterator[tuple[Work, Result]]]
"""Does all work, in any order, and yields each result as it comes."""


@dataclass(frozen=True, eq=False)
class Answerer:
    """Does work with an engine.

    Attributes:
        engine: Answers.
        tokenizer: The base's.
        tasks: By their keys.
        skips: Keys of tasks whose answers are left without a grade if the reward function fails.
        temperature: 0 is greedy.
    """

    engine: SyncEngine
    tokenizer: PreTrainedTokenizerBase
    tasks: Mapping[str, Task]
    skips: frozenset[str]
    temperature: float

    def __call__(self, work: Work, experts: Mapping[str, ZVector]) -> Result:
        """Do one piece of work.

        Args:
            work: What to do.
            experts: {digest: z} of ``work.z_digests``.

        Raises:
            ZfleetError: The engine or a reward failed.
        """
        if isinstance(work, SinglesBatch):
            return self._singles(work, experts)
        for digest in work.z_digests:
            self.engine.put_z(experts[digest])
        if isinstance(work, FirstPassBatch):
            return first_passes(self.engine, self.tokenizer, work.stored, work.task, work.samples)
        task = self.tasks[work.task]
        return answer(self.engine, self.tokenizer, task, work.asks, self.temperature, work.task in self.skips)

    def _singles(self, work: SinglesBatch, experts: Mapping[str, ZVector]) -> list[Score]:
        """Score each expert alone as a search does: by accuracy, then by the likelihood of the right answers."""
        task = replace(self.tasks[work.task], train=work.shots, test=())
        problem = SearchProblem("single experts", {digest: experts[digest] for digest in work.experts}, task)
        settings = SearchSettings(temperature=self.temperature)
        points = problem.space(settings).singles().tolist()
        shots = [range(len(work.shots))] * len(points)
        measured = measure_candidates(self.engine, self.tokenizer, problem, settings, points, shots)
        return [settings.objective.score(np.array(one)) for one in measured]

"""What ways choose before the test: the best single expert on the shots, and the best prompt on the selection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import cast

from zfleet.config.evaluate import EvaluateSpec
from zfleet.engine.contract import BASE_Z
from zfleet.errors import RewardError
from zfleet.evaluate.answering import Ask
from zfleet.search.method import Score
from zfleet_jobs.evaluate.answerer import SinglesBatch
from zfleet_jobs.evaluate.answers import Answers
from zfleet_jobs.evaluate.identity import asked_digest
from zfleet_jobs.evaluate.prepared import Prepared
from zfleet_jobs.run_folder.storage import Storage

Drawn = tuple[str, int, int]
"""Task, number of shots and draw."""


def best_singles(prepared: Prepared, answers: Answers, storage: Storage) -> dict[Drawn, str]:
    """Choose the expert that answers each draw of shots best; as a search, ties by log-likelihood.

    Args:
        prepared: The evaluation.
        answers: Scores the experts that were not scored before.
        storage: Where evaluations keep their answers.

    Raises:
        ZfleetError: A worker failed; what is done is kept.
    """
    spec, references = prepared.spec, list(prepared.experts)
    digests = tuple(z.digest for z in prepared.experts.values())
    folder = storage.folder("singles")
    found: dict[Drawn, list[Score]] = {}
    missing: list[SinglesBatch] = []
    for drawn in _drawn(spec):
        task, shots, draw = drawn
        work = SinglesBatch(task, draw, prepared.splits[task].shots(shots, draw), digests)
        stored = folder.get(_file(prepared, work))
        if stored is None:
            missing.append(work)
        else:
            found[drawn] = [tuple(score) for score in json.loads(stored)]
    for work, result in answers.singles(missing):
        scores = cast(Sequence[Score], result)
        folder.put(_file(prepared, work), json.dumps(scores).encode())
        found[work.task, len(work.shots), work.draw] = list(scores)
    return {
        drawn: max(zip(scores, references, strict=True), key=lambda pair: pair[0])[1] for drawn, scores in found.items()
    }


def best_prompts(prepared: Prepared, answers: Answers) -> dict[str, str]:
    """Choose for each task the prompt with which the base answers most of the selection right; of equals the first.

    Raises:
        RewardError: No answer to the selection was graded.
        ZfleetError: A worker failed; what is done is kept.
    """
    asked = {
        task: {
            name: [Ask(prepared.prompted(sample, name), BASE_Z, prepared.spec.seeds[0]) for sample in parts.selection]
            for name in prepared.spec.prompts
        }
        for task, parts in prepared.splits.items()
    }
    wanted = {task: [ask for asks in of_task.values() for ask in asks] for task, of_task in asked.items()}
    answers.ask("prompts on the selection", wanted)
    return {
        task: max(of_task, key=lambda name: _share_right(answers, task, of_task[name]))
        for task, of_task in asked.items()
        if of_task
    }


def _share_right(answers: Answers, task: str, asks: Sequence[Ask]) -> float:
    rewards = [reward for ask in asks if (reward := answers(task, ask).reward) is not None]
    if not rewards:
        raise RewardError(
            f"the reward of {task} graded none of {len(asks)} answers to its selection",
            "give the task more training prompts, raise `selection_samples`, or leave out `prompts`",
        )
    return sum(reward > 0 for reward in rewards) / len(rewards)


def _drawn(spec: EvaluateSpec) -> list[Drawn]:
    return [(task, shots, draw) for task in spec.tasks for shots in spec.shots for draw in spec.draws]


def _file(prepared: Prepared, work: SinglesBatch) -> str:
    setting = prepared.engine.setting(prepared.tasks[work.task], 0.0)
    state = [setting, [asked_digest(shot) for shot in work.shots], list(work.experts)]
    return f"{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:24]}.json"

"""LoRA as a way of an evaluation: what ``zfleet compare`` trained and graded, on tasks with the same held-out prompts.

An adapter changes the model itself, so that no engine of the evaluation could answer under it beside z. An experiment
keeps the reward of every held-out prompt of each training; those are taken over, and the answers' texts are not known.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from zfleet.config.compare import CompareSpec
from zfleet.config.evaluate import LORA, LoraSpec
from zfleet.config.load import parse_spec
from zfleet.config.yaml_text import read_yaml
from zfleet.errors import SpecError
from zfleet.evaluate.cells import CellKey
from zfleet.evaluate.splits import row_digest
from zfleet.evaluate.ways import Way
from zfleet.models.bundle import pack_with_targets
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import fit_prompts
from zfleet.tasks.task import Task
from zfleet_jobs.compare.run import trials_of
from zfleet_jobs.compare.stored import stored_trials
from zfleet_jobs.evaluate.cell_files import CellRow
from zfleet_jobs.evaluate.measure import MeasuredCell
from zfleet_jobs.evaluate.prepared import Prepared
from zfleet_jobs.run_folder.storage import Storage

_WAY = Way(LORA, "lora", searched=True)
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoraTraining:
    """What a training of LoRA answered right.

    Attributes:
        task: What it learned and was graded on; its test split are the graded prompts.
        seed: Of the training.
        rewards: Of each held-out prompt; None if it was not graded.
    """

    task: Task
    seed: int
    rewards: tuple[float | None, ...]


def lora_trainings(spec: LoraSpec, fingerprint: str) -> list[LoraTraining]:
    """Read the finished trainings of an experiment's method.

    Args:
        spec: Which.
        fingerprint: Of the base that they must have.

    Raises:
        SpecError: There is no such experiment or method, it is not of LoRA, its base is another one, or no training of
            it has finished.
        JobError: A result cannot be read.
    """
    storage = Storage.at(spec.experiment)
    written = storage.get("compare.yaml")
    if written is None:
        raise SpecError(
            f"lora.experiment is {spec.experiment!r}: there is no experiment of `zfleet compare`",
            "give the `storage` of one, or leave out `lora`",
        )
    experiment = parse_spec(read_yaml(written.decode(), spec.experiment), CompareSpec, spec.experiment)
    method = experiment.methods.get(spec.method)
    if method is None or method.adapter != "lora":
        names = [name for name, other in experiment.methods.items() if other.adapter == "lora"]
        raise SpecError(
            f"lora.method is {spec.method!r}, which is no method of the experiment with `adapter: lora`",
            f"its methods with LoRA: {', '.join(names) or 'none'}",
        )
    trials = [trial for trial in trials_of(experiment) if trial.method == spec.method]
    bundles = pack_with_targets(experiment.base, {method.targets or experiment.base.targets})
    bundle = next(iter(bundles.values()))
    if bundle.fingerprint != fingerprint:
        raise SpecError(
            f"lora.experiment {spec.experiment!r} is of base {bundle.fingerprint[:12]}, this evaluation's is "
            f"{fingerprint[:12]}",
            "give an experiment on the same base, or leave out `lora`",
        )
    longest = experiment.engine.longest(bundle.context)
    tasks = {
        name: fit_prompts(build_task(task), bundle.tokenizer(), longest, bundle.image_reader()).task
        for name, task in experiment.tasks.items()
    }
    stored = stored_trials(storage, experiment, trials, bundles, tasks)
    finished = [(trial, outcome) for trial in trials if (outcome := stored[trial].outcome()) is not None]
    if not finished:
        raise SpecError(
            f"no training of method {spec.method} in {spec.experiment} has finished",
            "run `zfleet compare` to its end, or leave out `lora`",
        )
    return [LoraTraining(tasks[trial.task], trial.seed, outcome.rewards) for trial, outcome in finished]


def lora_cells(prepared: Prepared, trainings: list[LoraTraining]) -> Iterator[MeasuredCell]:
    """Make cells of trainings on tasks of the evaluation: those asked and graded alike, with all of its prompts.

    A warning names a task of the evaluation that none of the trainings is of.
    """
    for name, task in prepared.tasks.items():
        setting, seeds = prepared.engine.setting(task, 0.0), set[int]()
        for training in trainings:
            rewards = _rewards(training)
            rows = [(sample, row_digest(sample)) for sample in prepared.splits[name].test]
            alike = prepared.engine.setting(training.task, 0.0) == setting
            if not alike or training.seed in seeds or any(row not in rewards for _, row in rows):
                continue
            seeds.add(training.seed)
            cells = [
                CellRow(
                    sample=sample,
                    row=row,
                    cluster=prepared.cluster(name, sample),
                    own=prepared.own(sample),
                    asked=sample.prompt,
                    mixture={},
                    z=None,
                    answer=None,
                    reward=rewards[row],
                )
                for sample, row in rows
            ]
            yield MeasuredCell(CellKey(name, LORA, seed=training.seed), _WAY, None, cells)
        if not seeds:
            log.warning("lora: the experiment has no training on the held-out prompts of task %s", name)


def _rewards(training: LoraTraining) -> Mapping[str, float | None]:
    return {row_digest(sample): reward for sample, reward in zip(training.task.test, training.rewards, strict=False)}

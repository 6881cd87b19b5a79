"""The plan of the demo on a pretrained model: its tasks, budgets and searches, and the specs of its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from zfleet.config.compare import CompareSpec, MethodSpec
from zfleet.config.generated import EXAM, KIND, GeneratedName
from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import BaseSpec, EngineSpec, ResourceSpec
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import TaskError
from zfleet_jobs.compare.run import trials_of
from zfleet_jobs.compare.trial import Trial
from zfleet_jobs.search.settings import SearchSettings

SVF, LORA, CLASSIFIER = "svf", "lora", "classifier"
"""The methods, as experiments call them. The classifier's is SVF at a rate of its own."""

EXPERTS: tuple[GeneratedName, ...] = ("reviews", "categories", "order_fields", "residences")
"""The generated tasks that get an expert each. Their order is that of the tables."""

UNSEEN: GeneratedName = "memberships"
"""A task without an expert: a mixture for it is searched on a few shots."""

EXAMS: tuple[GeneratedName, ...] = (EXAM, UNSEEN)
"""What mixtures are searched for."""

ARC = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge"}
"""{dataset: the beginning of its authors' file names}."""

SVF_LR, LORA_LR, CLASSIFIER_LR, TEMPERATURE = 0.005, 0.0005, 0.01, 0.7
"""docs/training.md says what was tried on validation prompts, and what was not."""

_ARC_PROMPT = "{question}\n\n{choices}\n\nAnswer with one of {labels}."
"""Without a chain of thought, so that answers are short and fit the time."""


@dataclass(frozen=True)
class Plan:
    """What a run trains and measures.

    Attributes:
        tasks: Of the experts, by name.
        steps: Of each training.
        prompts_per_step: Of each training.
        samples_per_prompt: Of each training; they share the work on their prompt.
        validation: Training prompts set aside in each training, by which its best step is chosen.
        held_out: Test prompts of each task.
        exam: Test prompts of each exam.
        draws: The seeds of the shots. Every draw is reported.
        shots: Prompts that a search sees.
        population: Candidates in each generation of a search.
        generations: Of a search.
        minutes: How long the whole takes on two cores of a laptop, without ARC.
    """

    tasks: dict[str, TaskSpec] = field(default_factory=lambda: _generated(EXPERTS))
    steps: int = 12
    prompts_per_step: int = 16
    samples_per_prompt: int = 4
    validation: int = 64
    held_out: int = 256
    exam: int = 160
    draws: tuple[int, ...] = (0, 1)
    shots: int = 12
    population: int = 12
    generations: int = 4
    minutes: int = 45

    @property
    def experts(self) -> tuple[str, ...]:
        """The generated tasks that get an expert: these are mixed and dispatched to."""
        return tuple(name for name in EXPERTS if name in self.tasks)


def _generated(names: Sequence[GeneratedName]) -> dict[str, TaskSpec]:
    return {name: TaskSpec(generated=name) for name in names}


FULL = Plan()
QUICK = Plan(
    tasks=_generated(EXPERTS[:2]),
    steps=8,
    prompts_per_step=8,
    validation=32,
    held_out=60,
    exam=40,
    draws=(0,),
    shots=8,
    population=6,
    generations=2,
    minutes=10,
)


def with_arc(plan: Plan, folder: Path) -> Plan:
    """Add an expert for each of ARC's sets whose files lie in a folder, in the form of its authors.

    Raises:
        TaskError: The folder has neither.
    """
    found = {
        name: TaskSpec.model_validate({"dataset": name, "data": str(folder), "prompt": _ARC_PROMPT, "max_tokens": 6})
        for name, beginning in ARC.items()
        if (folder / f"{beginning}-Train.jsonl").is_file()
    }
    if not found:
        names = " or ".join(f"{beginning}-Train.jsonl" for beginning in ARC.values())
        raise TaskError(f"--arc {folder} has no {names}", "give the folder of the authors' files, unpacked")
    return replace(plan, tasks=plan.tasks | found)


def compare_spec(plan: Plan, base: str, storage: str) -> CompareSpec:
    """Return the experiment: SVF and LoRA on every task, with the same prompts, rewards, samples and steps.

    ``planned_trials`` says which methods are for which tasks.
    """
    return CompareSpec(
        base=BaseSpec(model=base),
        tasks=plan.tasks | {KIND: TaskSpec(generated=KIND)},
        methods={
            SVF: MethodSpec(),
            LORA: MethodSpec(adapter="lora", rank=8, alpha=16, learner={"lr": LORA_LR}),
            CLASSIFIER: MethodSpec(learner={"lr": CLASSIFIER_LR}),
        },
        against=LORA,
        learner=LearnerSpec(
            steps=plan.steps,
            prompts_per_step=plan.prompts_per_step,
            samples_per_prompt=plan.samples_per_prompt,
            # It learns from prompts whose samples are all alike, too: one answer for all is right for half of them.
            estimator="reinforce",
            temperature=TEMPERATURE,
            lr=SVF_LR,
            # Few prompts a step make the reward swing, most of all where answers are yes or no.
            schedule="linear",
            validate_every=4,
            validation_samples=plan.validation,
        ),
        seeds=(0,),
        engine=EngineSpec(slots=64, max_length=512),
        eval_samples=plan.held_out,
        storage=storage,
    )


def planned_trials(spec: CompareSpec) -> list[Trial]:
    """List the experiment's trainings: the classifier's task by its own method alone, and every other task by both."""
    return [trial for trial in trials_of(spec) if (trial.task == KIND) == (trial.method == CLASSIFIER)]


def search_settings(plan: Plan) -> SearchSettings:
    """Return how mixtures are searched."""
    return SearchSettings(
        population=plan.population,
        generations=plan.generations,
        engine=EngineSpec(slots=64, max_length=512),
        resources=ResourceSpec(),
    )

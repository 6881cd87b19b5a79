"""The plan of the demo on a pretrained model: its tasks, budgets and searches, and the specs of its jobs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from zfleet.config.compare import CompareSpec, MethodSpec
from zfleet.config.generated import EXAM, KIND, GeneratedName
from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import BaseSpec, EngineSpec, ResourceSpec
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import TaskError
from zfleet_jobs.search.problem import SearchSettings

SVF, LORA = "svf", "lora"
"""The methods, as experiments call them."""

EXPERTS: tuple[GeneratedName, ...] = ("reviews", "categories", "order_fields", "residences")
"""The generated tasks that get an expert each. Their order is that of the tables."""

UNSEEN: GeneratedName = "memberships"
"""A task without an expert: a mixture for it is searched on a few shots."""

EXAMS: tuple[GeneratedName, ...] = (EXAM, UNSEEN)
"""What mixtures are searched for."""

ARC = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge"}
"""{dataset: the beginning of its authors' file names}."""

_ARC_PROMPT = "{question}\n\n{choices}\n\nAnswer with one of {labels}."
"""Without a chain of thought: a small model answers as well, and fits the time."""


@dataclass(frozen=True)
class Plan:
    """What a run trains and measures.

    Attributes:
        tasks: Of the experts, by name.
        steps: Of each training.
        prompts_per_step: Of each training.
        samples_per_prompt: Of each training.
        held_out: Test prompts of each task.
        exam: Test prompts of each exam.
        draws: The seeds of the shots. Every draw is reported.
        shots: Prompts that a search sees.
        population: Candidates in each generation of a search.
        generations: Of a search.
        minutes: What the whole took on two cores of a laptop, without ARC.
    """

    tasks: dict[str, TaskSpec] = field(default_factory=lambda: {name: TaskSpec(generated=name) for name in EXPERTS})
    steps: int = 40
    prompts_per_step: int = 16
    samples_per_prompt: int = 4
    held_out: int = 300
    exam: int = 200
    draws: tuple[int, ...] = (0, 1)
    shots: int = 12
    population: int = 16
    generations: int = 5
    minutes: int = 75


FULL = Plan()
QUICK = Plan(
    steps=8, prompts_per_step=8, held_out=80, exam=60, draws=(0,), shots=8, population=8, generations=2, minutes=15
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

    Its training of LoRA on the classifier's task is left out: dispatch needs the expert alone.
    """
    return CompareSpec(
        base=BaseSpec(model=base),
        tasks=plan.tasks | {KIND: TaskSpec(generated=KIND)},
        methods={
            SVF: MethodSpec(),
            LORA: MethodSpec(adapter="lora", rank=8, alpha=16, learner={"lr": LORA_LR}),
        },
        against=LORA,
        learner=LearnerSpec(
            steps=plan.steps,
            prompts_per_step=plan.prompts_per_step,
            samples_per_prompt=plan.samples_per_prompt,
            estimator="rloo",
            lr=SVF_LR,
            pass_tokens=2048,
        ),
        seeds=(0,),
        engine=EngineSpec(slots=64, max_length=512),
        eval_samples=plan.held_out,
        storage=storage,
    )


def search_settings(plan: Plan) -> SearchSettings:
    """Return how mixtures are searched."""
    return SearchSettings(
        population=plan.population,
        generations=plan.generations,
        engine=EngineSpec(slots=64, max_length=512),
        resources=ResourceSpec(),
    )


SVF_LR = 0.02
LORA_LR = 0.002
"""Learning rates, chosen on validation prompts: docs/training.md has what was tried."""

"""The demo's plan: its experts, exams and draws, and the specs of its jobs."""

from __future__ import annotations

from typing import Literal

from zfleet.config.learner import LearnerSpec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import EngineSpec, ExpertSpec, TrainSpec
from zfleet.config.task_specs import TaskSpec

SKILLS = ("reverse", "sort", "add")
"""Skills that the base has but answers only half right, so that an expert can elicit them."""

WEAK_SKILL = "lookup"
"""A skill that the base hardly has, so that there is little to elicit."""

CLASSIFIER = "kind"
RANDOM_CONTROL = "reverse-random"
"""The control: trained like ``reverse``, but with random rewards."""

EXAMS = {
    "exam_trained": (*SKILLS,),
    "exam_one_trained": (*SKILLS, WEAK_SKILL),
    "exam_unseen": (*SKILLS, WEAK_SKILL),
    "reverse_digits": (*SKILLS, WEAK_SKILL),
    "table_sum": (*SKILLS, WEAK_SKILL),
}
"""{exam: the experts that its mixtures may use}."""

DRAWS = (0, 1, 2)
"""The seeds of the shots. Every draw is reported."""

SHOTS = 10
MIXTURE, MIXTURE_EXAM = "exam-mix", "exam_trained"
"""The registered and served mixture, and its exam. It is the mixture of the first draw."""

FEW_SHOT_CASES = ("reverse_digits", "table_sum")
"""Unseen kinds of prompts, for which the classifier's choice is compared with a mixture found on few shots."""

UNSEEN = ("reverse_digits", "sort_digits", "table_sum")
"""Kinds of prompts that the classifier was not trained on."""

EngineKind = Literal["torch", "vllm"]


def engine_spec(kind: EngineKind = "torch", slots: int = 256) -> EngineSpec:
    """Return the engine's spec, the same kind for all parts of the demo."""
    return EngineSpec(kind=kind, slots=slots)


def train_spec(kind: EngineKind = "torch") -> TrainSpec:
    """Return the training job: the skills, the classifier and the control."""
    names = (*SKILLS, WEAK_SKILL, CLASSIFIER)
    control = ExpertSpec(name=RANDOM_CONTROL, task=TaskSpec(lab="reverse"), learner={"reward": "random"})
    return TrainSpec(
        run="demo",
        experts=(*(ExpertSpec(name=name, task=TaskSpec(lab=name)) for name in names), control),
        learner=LearnerSpec(steps=100),
        engine=engine_spec(kind),
    )


def search_spec(experts: tuple[str, ...], kind: EngineKind = "torch") -> SearchSpec:
    """Return the spec of the search whose mixture is registered. The other searches differ in exam and shots only.

    Args:
        experts: References to the experts of ``EXAMS[MIXTURE_EXAM]``, in that order.
        kind: The kind of engine.
    """
    return SearchSpec(
        experts=experts,
        task=TaskSpec(lab=MIXTURE_EXAM),
        name=MIXTURE,
        shots=SHOTS,
        shots_seed=DRAWS[0],
        # The lab's answers take less time than it takes to hand out the blocks of a race.
        racing=False,
        engine=engine_spec(kind, slots=192),
    )


def serve_spec(port: int, kind: EngineKind = "torch") -> ServeSpec:
    """Return the spec of the service."""
    return ServeSpec(port=port, engine=engine_spec(kind, slots=32))

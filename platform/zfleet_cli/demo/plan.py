"""What the demo runs: which experts, which exams, how many draws."""

from __future__ import annotations

from typing import Literal

from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import EngineSpec, ExpertSpec, SearchSpec, ServeSpec, TrainSpec
from zfleet.config.task_specs import TaskSpec

SKILLS = ("reverse", "sort", "add")
"""Skills that the base holds and answers half right: what experts are for."""

WEAK_SKILL = "lookup"
"""A skill that the base hardly holds: there is little to elicit."""

CLASSIFIER = "kind"
RANDOM_CONTROL = "reverse-random"
"""Trained like ``reverse``, but with rewards thrown by a coin."""

EXAMS = {
    "exam_trained": (*SKILLS,),
    "exam_one_trained": (*SKILLS, WEAK_SKILL),
    "exam_unseen": (*SKILLS, WEAK_SKILL),
    "reverse_digits": (*SKILLS, WEAK_SKILL),
    "table_sum": (*SKILLS, WEAK_SKILL),
}
"""{exam: the experts that a mixture for it may use}."""

DRAWS = (0, 1, 2)
"""Seeds of the shots; every draw is reported."""

SHOTS = 10
MIXTURE, MIXTURE_EXAM = "exam-mix", "exam_trained"
"""The name under which the first draw's mixture for the exam of trained skills is registered and served."""

FEW_SHOT_CASES = ("reverse_digits", "table_sum")
"""Unseen kinds on which the classifier's choice is compared with a mixture found on ten shots."""

UNSEEN = ("reverse_digits", "sort_digits", "table_sum")
"""Kinds of prompts that the classifier was never trained on."""

EngineKind = Literal["torch", "vllm"]


def engine_spec(kind: EngineKind = "torch", slots: int = 256) -> EngineSpec:
    """The engine of every part of the demo."""
    return EngineSpec(kind=kind, slots=slots)


def train_spec(kind: EngineKind = "torch") -> TrainSpec:
    """The training job: three skills, and what they are compared with."""
    names = (*SKILLS, WEAK_SKILL, CLASSIFIER)
    control = ExpertSpec(name=RANDOM_CONTROL, task=TaskSpec(lab="reverse"), learner={"reward": "random"})
    return TrainSpec(
        run="demo",
        experts=(*(ExpertSpec(name=name, task=TaskSpec(lab=name)) for name in names), control),
        learner=LearnerSpec(steps=100),
        engine=engine_spec(kind),
    )


def search_spec(experts: tuple[str, ...], kind: EngineKind = "torch") -> SearchSpec:
    """The search whose mixture is registered, as ``zfleet search`` would run it; the others differ in exam and shots.

    Args:
        experts: References of the experts of ``EXAMS[MIXTURE_EXAM]``, in that order.
        kind: The engine.
    """
    return SearchSpec(
        experts=experts,
        task=TaskSpec(lab=MIXTURE_EXAM),
        name=MIXTURE,
        shots=SHOTS,
        shots_seed=DRAWS[0],
        engine=engine_spec(kind, slots=192),
    )


def serve_spec(port: int, kind: EngineKind = "torch") -> ServeSpec:
    """The service."""
    return ServeSpec(port=port, engine=engine_spec(kind, slots=32))

"""The spec of `zfleet calibrate`: a dispatcher, its labels, and the prompts that it is calibrated on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from zfleet.config.spec import ExpertName, Reference, Spec
from zfleet.config.specs import DISPATCH_PROMPT, REGISTRY_URI, AnsweringSpec, EngineSpec, answering
from zfleet.config.task_specs import TaskSpec

LEAST_EXAMPLES = 5
"""The fewest examples of a label."""

StepKind = Literal["prompt", "classifier", "soft", "few_shot", "nearest"]
DispatcherKind = Literal["prompt", "classifier", "soft", "few_shot", "nearest", "cascade"]


class LabelSpec(Spec):
    """One label: who answers its prompts, and prompts that have it."""

    expert: Reference | None = Field(description="who answers; `null`: the base does, on purpose")
    task: TaskSpec = Field(description="a task whose prompts all have this label")


class CalibrateSpec(AnsweringSpec):
    """`zfleet calibrate`: calibrate a dispatcher and register it."""

    kind: Literal["calibrate"] = "calibrate"
    name: ExpertName = Field(description="the name under which the dispatcher is registered")
    dispatcher: DispatcherKind = Field(
        description="`prompt` asks the base, `classifier` an expert that was trained to answer; `soft` mixes by the "
        "labels' probabilities; `nearest` compares with known prompts; `few_shot` goes by the task that a request "
        "names; `cascade` asks its steps in order"
    )
    steps: tuple[StepKind, ...] = Field((), description="`cascade` only: what is asked, the cheapest first")
    labels: dict[str, LabelSpec] = Field({}, description="the labels; `few_shot` has none")
    tasks: dict[str, Reference] = Field({}, description="`few_shot` only: {task that a request names: expert, mixture}")
    classifier: Reference | None = Field(
        None, description="the expert that `classifier` asks, and `soft`; none: `soft` asks the base"
    )
    question: str = Field(DISPATCH_PROMPT, description="what is asked; `{prompt}` stands for the user's text")
    examples: int = Field(
        200,
        ge=0,
        description="training prompts of each label that prompts are compared with; 0: strange prompts are told by the "
        "answer to the question alone",
    )
    prompts: int = Field(
        500, ge=1, description="held-out prompts of each label; half of them calibrate, and half are measured"
    )
    risk: float = Field(0.05, gt=0, lt=1, description="the largest fraction of wrong labels among decided prompts")
    certainty: float = Field(0.95, gt=0, lt=1, description="the probability with which that holds")
    extend: Reference | None = Field(
        None,
        description="a `nearest` dispatcher to which the labels are added, from so many examples; nothing about the "
        "others changes, and nothing is calibrated",
    )
    engine: Annotated[EngineSpec, answering(64)] = EngineSpec(kind="auto", slots=64)
    registry: str | None = Field(None, description=REGISTRY_URI)

    @property
    def kinds(self) -> tuple[StepKind, ...]:
        """What is asked, in order: the dispatcher alone, or the steps of a cascade."""
        if self.dispatcher == "cascade":
            return self.steps
        return (self.dispatcher,)

    @model_validator(mode="after")
    def _steps_of_a_cascade(self) -> CalibrateSpec:
        if (self.dispatcher == "cascade") != bool(self.steps):
            raise ValueError(f"dispatcher is {self.dispatcher!r} and steps are {list(self.steps)}: `cascade` has steps")
        if self.steps and len(set(self.steps)) < max(len(self.steps), 2):
            raise ValueError(f"steps are {list(self.steps)}: give two or more, each once")
        return self

    @model_validator(mode="after")
    def _what_each_kind_needs(self) -> CalibrateSpec:
        kinds = set(self.kinds)
        asking = kinds & {"prompt", "classifier", "soft"}
        if bool(self.labels) != (kinds != {"few_shot"}):
            raise ValueError("labels are for dispatchers that look at prompts, which need one or more")
        if bool(self.tasks) != ("few_shot" in kinds):
            raise ValueError("tasks are for `few_shot`, which needs one or more")
        if "classifier" in kinds and self.classifier is None:
            raise ValueError("classifier is missing: name the expert that answers the question")
        if self.classifier is not None and not kinds & {"classifier", "soft"}:
            raise ValueError(f"classifier is {self.classifier!r}: only `classifier` and `soft` ask one")
        if self.question != DISPATCH_PROMPT and not asking:
            raise ValueError(f"question is {self.question!r}: only `prompt`, `classifier` and `soft` ask one")
        if asking and "{prompt}" not in self.question:
            raise ValueError(f"question is {self.question!r}: `{{prompt}}` must stand in it for the user's text")
        if "nearest" in kinds and self.examples < LEAST_EXAMPLES:
            raise ValueError(f"examples is {self.examples}: `nearest` needs {LEAST_EXAMPLES} or more of each label")
        if 0 < self.examples < LEAST_EXAMPLES:
            raise ValueError(f"examples is {self.examples}: give 0, or {LEAST_EXAMPLES} or more")
        if self.extend is not None and self.dispatcher != "nearest":
            raise ValueError(f"extend is {self.extend!r}, dispatcher {self.dispatcher!r}: only `nearest` learns labels")
        return self

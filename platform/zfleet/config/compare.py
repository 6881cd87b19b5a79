"""Specs of experiments: ways to learn the same tasks, compared over several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from zfleet.config.explain import explain
from zfleet.config.learner import LearnerSpec
from zfleet.config.spec import Name, Spec
from zfleet.config.specs import EngineSpec, PlacedSpec
from zfleet.config.task_specs import TaskSpec


class MethodSpec(Spec):
    """One way to learn; `learner` overrides single values of the experiment's learner."""

    adapter: Literal["svf", "lora"] = "svf"
    targets: str | None = Field(None, description="which matrices; none: base.targets")
    rank: int = Field(8, ge=1, description="lora only")
    alpha: int = Field(16, ge=1, description="lora only: its scale, times rank")
    learner: dict[str, int | float | str | None] = Field({}, description="single values of the learner, replaced")

    @model_validator(mode="after")
    def _of_its_adapter(self) -> MethodSpec:
        if self.adapter != "lora" and (self.rank, self.alpha) != (8, 16):
            raise ValueError(f"rank and alpha are for adapter `lora`, this is {self.adapter!r}")
        return self


class ExperimentSpec(PlacedSpec):
    """What `zfleet compare` and `zfleet ablate` have in common: every method learns every task with every seed."""

    tasks: dict[Name, TaskSpec] = Field(min_length=1)
    learner: LearnerSpec = LearnerSpec()
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    engine: EngineSpec = EngineSpec()
    eval_samples: int = Field(512, ge=1, description="held-out prompts graded, greedily")
    storage: str = Field("runs/experiments", description="results; what is finished there is not run again")

    @model_validator(mode="after")
    def _embedded(self) -> ExperimentSpec:
        if self.engine.kind != "torch":
            raise ValueError(
                f"engine.kind is {self.engine.kind!r}: an experiment runs on `torch`, which LoRA can share"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds has one twice: {list(self.seeds)}")
        return self

    def learner_of(self, method: MethodSpec, seed: int) -> LearnerSpec:
        """How a method learns with one seed."""
        return LearnerSpec.model_validate(self.learner.model_dump() | method.learner | {"seed": seed})


class CompareSpec(ExperimentSpec):
    """`zfleet compare`: SVF beside what else one could do with the same prompts and rewards."""

    kind: Literal["compare"] = "compare"
    methods: dict[Name, MethodSpec] = Field(min_length=2)
    against: Name = Field(description="the method that all others are divided by")

    @model_validator(mode="after")
    def _consistent(self) -> CompareSpec:
        if self.against not in self.methods:
            raise ValueError(f"against is {self.against!r}, the methods are {', '.join(self.methods)}")
        for name, method in self.methods.items():
            _check(self, method, ("methods", name, "learner"))
        return self


class AblateSpec(ExperimentSpec):
    """`zfleet ablate`: the paper's grid, targets x objective x parametrisation."""

    kind: Literal["ablate"] = "ablate"
    targets: tuple[str, ...] = Field(("mlp", "attention", "all"), min_length=1)
    objectives: tuple[Literal["reinforce", "supervised"], ...] = Field(("reinforce", "supervised"), min_length=1)
    parametrisations: tuple[Literal["sigmoid", "direct", "exp"], ...] = Field(
        ("sigmoid", "direct", "exp"), min_length=1
    )

    @model_validator(mode="after")
    def _consistent(self) -> AblateSpec:
        for method in self.methods.values():
            _check(self, method, ("learner",))
        return self

    @property
    def methods(self) -> Mapping[str, MethodSpec]:
        """Every combination, by a name that says it."""
        grid = product(self.targets, self.objectives, self.parametrisations)
        return {
            f"{targets} {objective} {parametrisation}": MethodSpec(
                targets=targets, learner={"objective": objective, "parametrisation": parametrisation}
            )
            for targets, objective, parametrisation in grid
        }


def _check(spec: ExperimentSpec, method: MethodSpec, place: tuple[str, ...]) -> None:
    try:
        learner = spec.learner_of(method, 0)
    except ValidationError as error:
        raise ValueError("; ".join(explain(error, LearnerSpec, place))) from None
    if method.adapter == "lora" and learner.staleness:
        raise ValueError(f"staleness is {learner.staleness}: with adapter `lora` the model itself changes, set it to 0")

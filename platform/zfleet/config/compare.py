"""Specs of experiments: several methods learn the same tasks with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from zfleet.config.explain import explain
from zfleet.config.learner import SAMPLING_KEYS, LearnerSpec
from zfleet.config.spec import Name, Spec
from zfleet.config.specs import BaseSpec, EngineSpec, LearningEngine, PlacedSpec
from zfleet.config.task_specs import TaskSpec

Parametrisation = Literal["sigmoid", "direct", "exp"]

_LORA_RANK, _LORA_ALPHA = 8, 16


class MethodSpec(Spec):
    """A method of learning; `learner` overrides single values of the experiment's learner."""

    adapter: Literal["svf", "lora"] = "svf"
    targets: str | None = Field(None, description="which matrices to train; none: base.targets")
    rank: int | None = Field(None, ge=1, description=f"lora only; none: {_LORA_RANK}")
    alpha: int | None = Field(None, ge=1, description=f"lora only: its scale times its rank; none: {_LORA_ALPHA}")
    learner: dict[str, int | float | str | None] = Field({}, description="single values that replace the learner's")

    @model_validator(mode="after")
    def _of_its_adapter(self) -> MethodSpec:
        if self.adapter == "lora":
            if "parametrisation" in self.learner:
                raise ValueError("learner.parametrisation is for adapter `svf`, because LoRA has no z: omit it")
        elif (self.rank, self.alpha) != (None, None):
            raise ValueError(f"rank and alpha are for adapter `lora`, but adapter is {self.adapter!r}")
        if "seed" in self.learner:
            raise ValueError(f"learner.seed is {self.learner['seed']!r}: all methods use the experiment's `seeds`")
        return self

    @property
    def lora_rank(self) -> int:
        """The rank of adapter `lora`."""
        return _LORA_RANK if self.rank is None else self.rank

    @property
    def lora_alpha(self) -> int:
        """The scale times the rank of adapter `lora`."""
        return _LORA_ALPHA if self.alpha is None else self.alpha


class ExperimentSpec(PlacedSpec):
    """The keys that `zfleet compare` and `zfleet ablate` share: every method learns every task with every seed."""

    tasks: dict[Name, TaskSpec] = Field(min_length=1)
    learner: LearnerSpec = LearnerSpec()
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    engine: LearningEngine = EngineSpec()
    eval_samples: int = Field(512, ge=1, description="held-out prompts graded, greedily")
    storage: str = Field(
        "runs/experiments",
        description="folder of results and samples; finished trainings there are not repeated. With several machines, "
        "one that all share",
    )

    @model_validator(mode="after")
    def _embedded(self) -> ExperimentSpec:
        if self.engine.kind != "torch":
            raise ValueError(
                f"engine.kind is {self.engine.kind!r}: an experiment needs `torch`, the engine that LoRA runs on too"
            )
        _no_repeats("seeds", self.seeds)
        if self.learner.seed:
            raise ValueError(f"learner.seed is {self.learner.seed}: an experiment has several seeds, write `seeds`")
        return self

    def learner_of(self, method: MethodSpec, seed: int) -> LearnerSpec:
        """Return the learner's settings of a method and a seed.

        A supervised method ignores the keys about sampled answers, and takes as many prompts in a step as the others
        have samples, so that all methods learn from the same number of answers.
        """
        settings = self.learner.model_dump()
        if method.learner.get("objective", self.learner.objective) == "supervised":
            settings |= {name: LearnerSpec.model_fields[name].default for name in SAMPLING_KEYS}
            settings["prompts_per_step"] *= self.learner.samples_per_prompt
        return LearnerSpec.model_validate(settings | method.learner | {"seed": seed})


class CompareSpec(ExperimentSpec):
    """`zfleet compare`: SVF and other methods on the same prompts and rewards."""

    kind: Literal["compare"] = "compare"
    methods: dict[Name, MethodSpec] = Field(min_length=2)
    against: Name = Field(description="the method that all others are compared with, as ratios")

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
    parametrisations: tuple[Parametrisation, ...] = Field(("sigmoid", "direct", "exp"), min_length=1)
    lr: dict[Parametrisation, Annotated[float, Field(gt=0)]] = Field(
        {}, description="replaces learner.lr for single parametrisations: the same step of p moves z more in some"
    )

    @model_validator(mode="after")
    def _consistent(self) -> AblateSpec:
        for name in ("targets", "objectives", "parametrisations"):
            _no_repeats(name, getattr(self, name))
        fields = LearnerSpec.model_fields
        for name, axis in (("objective", "objectives"), ("parametrisation", "parametrisations")):
            if getattr(self.learner, name) != fields[name].default:
                raise ValueError(f"learner.{name} is {getattr(self.learner, name)!r}: write it in the grid's `{axis}`")
        if self.base.targets != BaseSpec().targets:
            raise ValueError(f"base.targets is {self.base.targets!r}: write it in the grid's `targets`")
        if unused := [name for name in self.lr if name not in self.parametrisations]:
            raise ValueError(f"lr has {', '.join(unused)}, but parametrisations are {', '.join(self.parametrisations)}")
        for method in self.methods.values():
            _check(self, method, ("learner",))
        return self

    @property
    def methods(self) -> Mapping[str, MethodSpec]:
        """Every combination, by a descriptive name."""
        return {
            f"{targets} {objective} {parametrisation}": MethodSpec(
                targets=targets,
                learner={
                    "objective": objective,
                    "parametrisation": parametrisation,
                    "lr": self.lr.get(parametrisation, self.learner.lr),
                },
            )
            for targets, objective, parametrisation in product(self.targets, self.objectives, self.parametrisations)
        }


def learns_from_references(spec: CompareSpec | AblateSpec) -> bool:
    """Return whether any method is supervised, so that every row needs a reference answer."""
    return any(spec.learner_of(method, 0).objective == "supervised" for method in spec.methods.values())


def _no_repeats(name: str, values: Sequence[object]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{name} has a value twice: {list(values)}")


def _check(spec: ExperimentSpec, method: MethodSpec, place: tuple[str, ...]) -> None:
    try:
        learner = spec.learner_of(method, 0)
    except ValidationError as error:
        raise ValueError("; ".join(explain(error, LearnerSpec, place))) from None
    if method.adapter == "lora" and learner.staleness:
        raise ValueError(f"staleness is {learner.staleness}: adapter `lora` changes the model itself, set it to 0")

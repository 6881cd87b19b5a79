"""The spec of `zfleet search`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from zfleet.config.spec import CountOrAuto, ExpertName, Reference, Spec
from zfleet.config.specs import REGISTRY_URI, AnsweringSpec
from zfleet.config.task_specs import TaskSpec

MethodName = Literal["cem", "reference", "random", "tpe", "cmaes", "gp", "nsga2"]

_KEYS: dict[str, tuple[str, ...]] = {
    "cem": ("elites", "std_floor"),
    "reference": ("elites", "ema", "best_again", "ties"),
}
_NOT_THE_PAPERS = ("selection", "test_samples", "racing", "block")
_METRICS = ("accuracy", "reward", "log_likelihood")
_PART = "part."


class SearchMethodSpec(Spec):
    """How mixtures are searched: a name, or a name with settings: `method: {name: cem, elites: 0.1}`."""

    name: MethodName = Field(
        "cem",
        description="`cem`: zfleet's cross-entropy method; `reference`: the paper's code to the letter, shots from the "
        "test split; `random`; or a sampler of Optuna: `tpe`, `cmaes`, `gp`, `nsga2`",
    )
    elites: float = Field(0.2, gt=0, le=1, description="cem, reference: the part of a population that is fitted to")
    std_floor: float = Field(0.02, ge=0, description="cem: the least spread, as a part of an alpha's range")
    ema: float = Field(0.0, ge=0, lt=1, description="reference: how much of the old mean and spread stays")
    best_again: bool = Field(True, description="reference: the best point is tried again in each generation")
    ties: bool = Field(
        True, description="reference: of equal candidates the one with the likelier right answers is best"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _of_its_method(self) -> SearchMethodSpec:
        fields = type(self).model_fields
        unused = fields.keys() - {"name", *_KEYS.get(self.name, ())}
        if ignored := sorted(name for name in unused if getattr(self, name) != fields[name].default):
            raise ValueError(f"method `{self.name}` does not use: {', '.join(ignored)}")
        return self

    @model_serializer
    def _written(self) -> str | dict[str, object]:
        fields = type(self).model_fields
        own = {name: getattr(self, name) for name in _KEYS.get(self.name, ())}
        changed = {name: value for name, value in own.items() if value != fields[name].default}
        return {"name": self.name, **changed} if changed else self.name


class SpaceSpec(Spec):
    """Which mixtures may be tried."""

    alphas: Literal["global", "layer", "kind", "matrix"] = Field(
        "global", description="an expert has one alpha, or one for each layer, kind of matrix (`q_proj`), or matrix"
    )
    low: float = Field(0.0, description="the least alpha; below 0 experts may be subtracted")
    high: float = Field(1.0, description="the largest alpha")
    sum_to_one: bool = Field(False, description="the alphas of all experts sum to 1")
    max_experts: int | None = Field(None, ge=1, description="the most experts in a mixture; none: any number")
    prior: Reference | None = Field(
        None,
        description="a registered dispatcher, such as `router` or `router/2`: the mean of what it decides on the shots "
        "is tried first, and is the first mean of `cem`",
    )
    screen: CountOrAuto = Field(
        "auto",
        description="the experts that are searched over, chosen by what each scores alone; `auto`: 8 of more than 12",
    )

    @model_validator(mode="after")
    def _holds_base_and_experts(self) -> SpaceSpec:
        if not self.low <= 0 < self.high:
            raise ValueError(
                f"low is {self.low:g} and high {self.high:g}: the base, all alphas 0, lies outside; give a low of 0 or "
                "less, and a high above 0"
            )
        if self.sum_to_one and self.high < 1:
            raise ValueError(
                f"sum_to_one is true and high {self.high:g}: an expert alone, its alpha 1, lies outside; give a high "
                "of 1 or more"
            )
        return self


def _as_targets(objective: object) -> object:
    """Read a metric, {metric: weight}, or a list of them."""
    listed = objective if isinstance(objective, list | tuple) else [objective]
    return [{one: 1.0} if isinstance(one, str) else one for one in listed]


class SearchSpec(AnsweringSpec):
    """`zfleet search`: a mixture of experts for a task, searched on a few shots by Ray Tune."""

    kind: Literal["search"] = "search"
    experts: tuple[str, ...] = Field(min_length=1, description="references such as `math`, `math/3`, `math@champion`")
    task: TaskSpec
    name: ExpertName = Field(description="the name under which the best mixture is registered")
    shots: int = Field(10, ge=1, description="training prompts that candidates are searched on")
    selection: int = Field(20, ge=0, description="further training prompts, by which the winner is chosen of finalists")
    test_samples: int = Field(200, ge=0, description="held-out prompts that the winner is reported on")
    shots_seed: int = 0
    seed: int = 0
    method: SearchMethodSpec = SearchMethodSpec()
    space: SpaceSpec = SpaceSpec()
    objective: Annotated[tuple[dict[str, float], ...], BeforeValidator(_as_targets)] = Field(
        ({"accuracy": 1.0},),
        min_length=1,
        max_length=2,
        description="`accuracy`, `reward`, `log_likelihood`, `part.NAME`, or a weighted sum {metric: weight}; two of "
        "them for `nsga2`. The likelihood of the right answers breaks ties",
    )
    racing: bool = Field(True, description="candidates that are clearly worse do not answer the other shots")
    block: CountOrAuto = Field("auto", description="shots before the first comparison; `auto`: an eighth, or 2")
    population: int = Field(32, ge=2)
    generations: int = Field(8, ge=1)
    trials_per_generation: int = Field(2, ge=1, description="chunks of a population; each is one engine batch")
    temperature: float = Field(0.0, ge=0, description="of the answers; all candidates get the same random numbers")
    storage: str = Field("runs/search", description="folder of the search's state")
    study: str | None = Field(
        None, description="storage of the Optuna study, as `postgresql://…`; none: study.db in the search's folder"
    )
    registry: str | None = Field(None, description=REGISTRY_URI)

    @model_validator(mode="after")
    def _consistent(self) -> SearchSpec:
        if self.task.reward.on_error == "skip":
            raise ValueError(
                "task.reward.on_error is 'skip': a search compares candidates on the same shots and cannot skip "
                "one; write `stop`"
            )
        if self.study is not None and "://" not in self.study:
            # The text may be a password.
            raise ValueError("study is no URL of a database: write postgresql://HOST/NAME or sqlite:///FILE")
        self._check_objective()
        if len(self.objective) > 1 and self.method.name != "nsga2":
            raise ValueError(f"objective has two targets, but method is `{self.method.name}`: choose `nsga2`")
        if self.trials_per_generation > self.population:
            raise ValueError(
                f"trials_per_generation is {self.trials_per_generation} for a population of {self.population}: give "
                "from 1 to the size of the population"
            )
        if self.block != "auto" and not self.racing:
            raise ValueError(f"block is {self.block}, but without racing nothing is compared in blocks: leave it out")
        if self.block != "auto" and self.block > self.shots:
            raise ValueError(f"block is {self.block}, but there are {self.shots} shots: give from 1 to {self.shots}")
        most = self.space.max_experts
        if most is not None and most > len(self.experts):
            raise ValueError(f"space.max_experts is {most}, but there are {len(self.experts)} experts")
        if self.method.name == "reference":
            self._check_reference()
        return self

    def _check_objective(self) -> None:
        reward = self.task.reward
        known = (*_METRICS, *(_PART + name for name in reward.parts))
        for target in self.objective:
            unknown = sorted(target.keys() - known)
            if reward.kind == "python":
                # What parts its function grades is known when it is called.
                unknown = [name for name in unknown if not name.startswith(_PART)]
            if unknown or not target:
                more = "" if reward.parts else "; part.NAME is for a task whose reward is of kind `sum`"
                raise ValueError(f"objective names {', '.join(unknown) or 'nothing'}: write {', '.join(known)}{more}")

    def _check_reference(self) -> None:
        """Refuse the keys that the paper's code has nothing for."""
        if self.objective != ({"accuracy": 1.0},):
            raise ValueError("method `reference` has the paper's objective, accuracy: leave out `objective`")
        fields = type(self).model_fields
        ignored = [name for name in _NOT_THE_PAPERS if getattr(self, name) != fields[name].default]
        ignored += [f"space.{name}" for name in ("screen", "prior") if getattr(self.space, name) not in (None, "auto")]
        if ignored:
            raise ValueError(
                f"method `reference` does not use {', '.join(ignored)}: the paper's code neither races nor screens, "
                "begins at equal parts, returns its best on the shots and reports on all of the test split; leave them "
                "out, or choose `cem`"
            )

    @property
    def finals(self) -> int:
        """The prompts that the winner is chosen by; 0 if the shots choose it, as in the paper's code."""
        return 0 if self.method.name == "reference" else self.selection

    @property
    def shots_in_a_block(self) -> int | None:
        """The shots between two comparisons of racing; None without racing, which the paper's code does not have."""
        if not self.racing or self.method.name == "reference":
            return None
        return min(max(2, self.shots // 8), self.shots) if self.block == "auto" else self.block

    @property
    def screened(self) -> int | None:
        """The experts that screening leaves; None for no screening, which the paper's code does not have."""
        if self.method.name == "reference":
            return None
        if self.space.screen != "auto":
            return self.space.screen if self.space.screen < len(self.experts) else None
        return 8 if len(self.experts) > 12 else None

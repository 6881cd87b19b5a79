"""The spec of an evaluation: tasks x ways of adapting x draws of shots x seeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from zfleet.config.explain import explain
from zfleet.config.search import SearchSpec, SpaceSpec
from zfleet.config.spec import Name, Reference, Spec
from zfleet.config.specs import DISPATCH_PROMPT, REGISTRY_URI, AnsweringSpec
from zfleet.config.task_specs import TaskSpec

BASE, BEST_PROMPT, UNIFORM = "base", "best-prompt", "uniform"
BEST_SINGLE, ORACLE, LORA = "best-single", "oracle", "lora"
OWN_WAYS = (BASE, BEST_PROMPT, UNIFORM, BEST_SINGLE, ORACLE, LORA)
"""The names of the ways that a spec does not name itself."""

_PLACED = ("base", "resources", "engine", "temperature", "storage", "registry")
_SET_HERE = {*_PLACED, "kind", "experts", "task", "name", "shots", "shots_seed", "seed", "test_samples"}
"""The keys of a search that the evaluation sets."""


class DispatcherSpec(Spec):
    """A dispatcher: one of the registry, by its reference alone, or a bare one, which is not calibrated."""

    registered: Reference | None = Field(None, description="what `zfleet calibrate` registered; none: a bare one")
    classifier: Reference | None = Field(None, description="the expert that a bare one asks; none: the base")
    question: str = Field(DISPATCH_PROMPT, description="of a bare one: `{prompt}` in it stands for the user's text")
    labels: dict[str, str] = Field({}, description="of a bare one, {label: expert}; others name their expert")

    @model_validator(mode="before")
    @classmethod
    def _reference_alone(cls, data: object) -> object:
        return {"registered": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _registered_or_bare(self) -> DispatcherSpec:
        fields = type(self).model_fields
        own = [name for name in ("classifier", "question", "labels") if getattr(self, name) != fields[name].default]
        if self.registered is not None and own:
            raise ValueError(f"registered is {self.registered!r}, which brings its own: leave out {', '.join(own)}")
        if "{prompt}" not in self.question:
            raise ValueError(f"question is {self.question!r}: put {{prompt}} where the user's text goes")
        return self


class OracleSpec(Spec):
    """How the oracle knows the expert of a prompt: by a field of its row; on tasks without it, by the test itself."""

    field: str = Field("kind", description="the field of the rows that says what kind a prompt is")
    labels: dict[str, str] = Field({}, description="value of the field: name of its expert; others name their expert")


class LoraSpec(Spec):
    """LoRA as `zfleet compare` trained it: on tasks whose held-out prompts are the same, its rewards are taken over."""

    experiment: str = Field("runs/experiments", description="`storage` of the experiment")
    method: Name = Field(description="the experiment's method")


class EvaluateSpec(AnsweringSpec):
    """`zfleet evaluate`: which way of adapting to trust on which task."""

    kind: Literal["evaluate"] = "evaluate"
    name: Name = Field(description="begins the name of the run's folder")
    tasks: dict[Name, TaskSpec] = Field(min_length=1)
    experts: tuple[Reference, ...] = Field(
        min_length=1, description="references such as `math`, `math/3`, `math@champion`"
    )
    prompts: dict[Name, str] = Field(
        {}, description=f"for `{BEST_PROMPT}`: what is put around the user's text, with {{prompt}} in its place"
    )
    searches: dict[Name, dict[str, Any]] = Field(
        {}, description="ways by search: single values that replace those of a search, such as {method: tpe}"
    )
    dispatchers: dict[Name, DispatcherSpec] = Field(
        {}, description="ways by a first pass, such as {router: router@champion}"
    )
    oracle: OracleSpec = OracleSpec()
    lora: LoraSpec | None = None
    against: Name = Field(BEST_SINGLE, description="the way that all are compared with, beside the base")
    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (10,), min_length=1, description="how many shots ways see; several give accuracy against shots"
    )
    draws: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="seeds of the draws of shots")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="of searches, and of answers that are sampled")
    selection_samples: int = Field(
        64, ge=1, description=f"prompts that `{BEST_PROMPT}` and the finalists of searches are chosen by"
    )
    eval_samples: int = Field(500, ge=1, description="held-out prompts of each task, the first ones")
    temperature: float = Field(0.0, ge=0, description="0: greedy answers")
    cluster_by: str | None = Field(
        None, description="the field of the rows that prompts share which are not independent, such as a passage"
    )
    workers: int = Field(2, ge=1, description="processes that answer; fewer if no more fit")
    storage: str = Field("runs/evaluate", description="folder of runs, and of answers that later runs use again")
    registry: str | None = Field(None, description=REGISTRY_URI)

    @model_validator(mode="after")
    def _ways(self) -> EvaluateSpec:
        named = [*self.searches, *self.dispatchers]
        if taken := [name for name in named if name in OWN_WAYS or named.count(name) > 1]:
            raise ValueError(f"several ways are named {taken[0]!r}: give searches and dispatchers names of their own")
        known = [BEST_SINGLE, UNIFORM, *([BEST_PROMPT] if self.prompts else []), *named, *([LORA] if self.lora else [])]
        if self.against not in known:
            raise ValueError(f"against is {self.against!r}, the ways are {', '.join(known)}")
        if "://" in self.storage:
            raise ValueError(f"storage is {self.storage!r}: searches keep their state in a folder, give a path")
        if self.lora is not None and self.temperature:
            raise ValueError(f"temperature is {self.temperature:g}, but `zfleet compare` grades greedy answers of LoRA")
        for name in ("shots", "draws", "seeds", "experts"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} has a value twice: {list(values)}")
        for name, text in self.prompts.items():
            if "{prompt}" not in text:
                raise ValueError(f"prompts.{name} is {text!r}: put {{prompt}} where the user's text goes")
        for name in self.searches:
            self._check_search(name)
        return self

    def search(self, way: str, task: str, shots: int, draw: int, seed: int) -> SearchSpec:
        """Return the spec of one search, as `zfleet search` would run it.

        Args:
            way: The search's name.
            task: The task's key.
            shots: How many shots.
            draw: Which draw of them.
            seed: Of the search.
        """
        set_here = {name: getattr(self, name) for name in _PLACED} | {
            "name": way,
            "experts": self.experts,
            "task": self.tasks[task],
            "shots": shots,
            "shots_seed": draw,
            "seed": seed,
        }
        return SearchSpec.model_validate(self.searches[way] | set_here)

    def space_of(self, way: str) -> SpaceSpec:
        """Return the space of a search, which is the same for all tasks, shots, draws and seeds."""
        return self.search(way, next(iter(self.tasks)), self.shots[0], self.draws[0], self.seeds[0]).space

    def _check_search(self, name: str) -> None:
        if ignored := sorted(_SET_HERE & self.searches[name].keys()):
            raise ValueError(f"searches.{name} has {', '.join(ignored)}, which the evaluation sets: leave it out")
        for task in self.tasks:
            try:
                self.search(name, task, self.shots[0], self.draws[0], self.seeds[0])
            except ValidationError as error:
                raise ValueError("; ".join(explain(error, SearchSpec, ("searches", name)))) from None

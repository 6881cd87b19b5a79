"""Job specs: the files that people submit. They are plain data, validated when read; this module imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_serializer, model_validator

from zfleet.config.explain import explain
from zfleet.config.learner import LearnerSpec
from zfleet.config.spec import ExpertName, Gib, Name, Spec, SwitchOrAuto
from zfleet.config.task_specs import TaskSpec
from zfleet.paths import REGISTRY_FOLDER, TRAIN_FOLDER

DISPATCH_PROMPT = "kind? {prompt}"
"""The first pass's question, in the words that the lab's classifier is trained on."""

REGISTRY_URI = f"MLflow tracking URI; none: sqlite under {REGISTRY_FOLDER}"
"""Describes the key `registry` of all specs."""


class BaseSpec(Spec):
    """The base, and how it computes."""

    model: str = Field(
        "lab", description="`lab`, a base of `zfleet bases list`, a Hugging Face folder, a GGUF file, or a hub id"
    )
    name: Name | None = Field(None, description="the name in requests; none: that of the folder or file")
    targets: str = Field("all", description="`mlp`, `attention`, `all`, or a pattern over module paths")
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"


class DeltaSpec(Spec):
    """Which singular directions form `delta` computes with: chosen by `error` or by `rank`."""

    error: float | None = Field(
        None, gt=0, lt=1, description="the fewest that keep the error of every expert in every matrix at this or below"
    )
    rank: int | None = Field(None, ge=1, description="so many of each matrix, whatever the error")

    @model_validator(mode="before")
    @classmethod
    def _default(cls, data: object) -> object:
        return data or {"error": 1e-3}

    @model_validator(mode="after")
    def _one_of_them(self) -> DeltaSpec:
        if (self.error is None) == (self.rank is None):
            raise ValueError(f"error is {self.error} and rank is {self.rank}: give one of them")
        return self


class FormSpec(Spec):
    """How vLLM computes the linears: a name, or `delta: {error: 1e-3}`, or `delta: {rank: 64}`."""

    name: Literal["factored", "delta", "dense"] = "factored"
    delta: DeltaSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, data: object) -> object:
        if data in ("factored", "dense"):
            return {"name": data}
        if data == "delta":
            return {"name": data, "delta": {}}
        if isinstance(data, dict) and list(data) == ["delta"]:
            return {"name": "delta", "delta": data["delta"] or {}}
        if data == {} or isinstance(data, FormSpec):
            return data
        raise ValueError("write `factored`, `dense`, `delta`, `delta: {error: 1e-3}` or `delta: {rank: 64}`")

    @model_serializer
    def _written(self) -> str | dict[str, dict[str, float | int]]:
        return self.name if self.delta is None else {self.name: self.delta.model_dump(exclude_none=True)}


class VllmSpec(Spec):
    """Settings that only the vLLM engine has."""

    form: FormSpec = Field(
        FormSpec(),
        description="`factored` is exact; `delta` computes the change in few directions of each matrix; `dense` is "
        "`factored`, but merges a z that all requests share for long enough",
    )
    members: int = Field(1, ge=1, description="replicas of a job's fleet")
    tensor_parallel: int = Field(1, ge=1, description="processes that one engine is split over")
    cache_gib: float = Field(1.0, gt=0, description="memory of the key-value cache on a CPU, in GiB")
    batch_tokens: int = Field(2048, ge=1, description="the most tokens in one step; longer prompts take several steps")


class EngineSpec(Spec):
    """The engine that generates: its settings, or its kind alone (`engine: vllm`)."""

    kind: Literal["torch", "vllm", "auto"] = Field(
        "torch",
        description="`torch` runs inside the worker, `vllm` in processes that all workers share; `auto` is `vllm` "
        "where it is installed and serves the base, otherwise `torch`, and always `torch` beside a learner",
    )
    slots: int = Field(128, ge=1, description="answers generated at once")
    max_length: int | None = Field(None, ge=2, description="prompt and answer, in tokens; none: the base's context")
    z_rows: int = Field(64, ge=2, description="rows of the z table, including the base's row")
    vllm: VllmSpec = VllmSpec()

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, data: object) -> object:
        return _with_settings(data)

    @model_validator(mode="after")
    def _vllm_for_vllm(self) -> EngineSpec:
        if self.kind == "torch" and self.vllm != VllmSpec():
            raise ValueError(f"engine.vllm is set but engine.kind is {self.kind!r}: write `kind: vllm`, or omit it")
        return self

    def longest(self, context: int) -> int:
        """The longest prompt and answer together on a base with this context, in tokens."""
        return min(self.max_length or context, context)


def _with_settings(engine: object) -> object:
    return {"kind": engine} if isinstance(engine, str) else engine


def answering(slots: int) -> BeforeValidator:
    """Set the defaults of an engine that only answers, which also hold if the spec gives other settings of it."""

    def fill(engine: object) -> object:
        settings = _with_settings(engine)
        return {"kind": "auto", "slots": slots} | settings if isinstance(settings, dict) else settings

    return BeforeValidator(fill)


AnsweringEngine = Annotated[EngineSpec, answering(192)]
"""The engine of a job that only answers: a search, an evaluation, a transfer."""


def _beside_a_learner(engine: EngineSpec) -> EngineSpec:
    """Resolve `auto`: the engine inside the worker generates on the very weights that learn."""
    if engine.kind != "auto":
        return engine
    return EngineSpec.model_validate(engine.model_dump() | {"kind": "torch"})


LearningEngine = Annotated[EngineSpec, AfterValidator(_beside_a_learner)]
"""The engine of a job that learns."""


class ResourceSpec(Spec):
    """The resources of one worker or actor."""

    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)
    memory: Gib | None = Field(
        None,
        description="main memory that each may use and that Ray reserves for it: GiB, or text such as `3GiB`; "
        "none: its share of the machine's, nothing is reserved",
    )
    torch_threads: int = Field(1, ge=1)

    @property
    def memory_bytes(self) -> int | None:
        """The memory of one worker or actor, in bytes; None if the spec gives none."""
        return None if self.memory is None else int(self.memory * 2**30)

    @property
    def amounts(self) -> dict[str, float]:
        """What one worker or actor takes, by Ray's names of resources; none that is 0 or not given."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        return {name: amount for name, amount in amounts.items() if amount}

    def times(self, number: int) -> ResourceSpec:
        """Multiply what so many workers or actors take."""
        memory = None if self.memory is None else self.memory * number
        return self.model_copy(update={"cpus": self.cpus * number, "gpus": self.gpus * number, "memory": memory})


class PlacedSpec(Spec):
    """The keys that all jobs share: the base, and the resources of each worker or actor."""

    base: BaseSpec = BaseSpec()
    resources: ResourceSpec = ResourceSpec()

    @model_validator(mode="after")
    def _device_is_there(self) -> Self:
        if (self.base.device == "cuda") != (self.resources.gpus > 0):
            raise ValueError(
                f"base.device is {self.base.device!r} and resources.gpus is {self.resources.gpus:g}: "
                "`cuda` needs resources.gpus above 0, `cpu` needs 0"
            )
        return self


class AnsweringSpec(PlacedSpec):
    """The keys of jobs that only answer, such as a search: their engine may be chosen."""

    engine: AnsweringEngine = EngineSpec(kind="auto", slots=192)


class ExpertSpec(Spec):
    """One expert to train; `learner` overrides single values of the job's learner."""

    name: ExpertName
    task: TaskSpec
    start: str | None = Field(
        None, description="the expert or mixture whose z training begins at, such as `exam-mix/1`; none: the base"
    )
    learner: dict[str, int | float | str | None] = Field(
        {}, description="single values that replace the job's learner's"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_targets(cls, data: object) -> object:
        learner = data.get("learner") if isinstance(data, dict) else None
        if isinstance(data, dict) and "targets" in (*data, *(learner if isinstance(learner, dict) else ())):
            raise ValueError(
                "targets belong to `base`: the experts of a job share its factors, and those of a cohort share every "
                "pass; train an expert with other targets in another job"
            )
        return data


class TrainSpec(PlacedSpec):
    """`zfleet train`: one Ray Train run per expert."""

    kind: Literal["train"] = "train"
    experts: tuple[ExpertSpec, ...] = Field(min_length=1)
    learner: LearnerSpec = LearnerSpec()
    engine: LearningEngine = EngineSpec()
    cohort: int = Field(1, ge=1, description="experts that one learner trains side by side, over one copy of the base")
    num_workers: int = Field(1, ge=1, description="data-parallel workers of each cohort")
    split: bool = Field(False, description="split the base over the workers of a cohort; needs `engine: vllm`")
    recompute: SwitchOrAuto = Field(
        "auto",
        description="gradient checkpointing: store each layer's input, recompute the rest; `auto`: if memory is so "
        "scarce that it wins",
    )
    concurrent_experts: int = Field(2, ge=1, description="cohorts that train at the same time")
    checkpoint_every: int = Field(1, ge=1, description="in steps; later steps are repeated after a lost worker")
    max_failures: int = Field(2, ge=0, description="restarts after a lost worker")
    eval_samples: int = Field(512, ge=1, description="held-out prompts graded before and after")
    eval_temperature: float = Field(0.0, ge=0, description="0 grades greedy answers")
    storage: str = Field(TRAIN_FOLDER, description="folder of checkpoints; with several machines, one that all share")
    registry: str | None = Field(None, description=REGISTRY_URI)
    run: Name = Field("train", description="the run's name; by default the name of the spec file. A used name resumes")

    @model_validator(mode="after")
    def _consistent(self) -> TrainSpec:
        if self.run == "samples":
            raise ValueError("run is 'samples', the name of the folder with the samples of all runs: use another name")
        if self.split and (self.num_workers < 2 or self.engine.kind != "vllm"):
            raise ValueError(
                f"split is true, num_workers is {self.num_workers} and engine.kind is {self.engine.kind!r}: a split "
                "base needs 2 workers or more, and the engine `vllm`, which engine.vllm.tensor_parallel splits"
            )
        names = [expert.name for expert in self.experts]
        if len(set(names)) != len(names):
            raise ValueError(f"several experts have the same name: {sorted({n for n in names if names.count(n) > 1})}")
        for place, expert in enumerate(self.experts):
            try:
                learner = self.learner_of(expert)
            except ValidationError as error:
                raise ValueError("; ".join(explain(error, LearnerSpec, ("experts", place, "learner")))) from None
            if learner.prompts_per_step % self.num_workers:
                raise ValueError(
                    f"prompts_per_step {learner.prompts_per_step} of expert {expert.name!r} is not a multiple of "
                    f"num_workers {self.num_workers}"
                )
        return self

    def learner_of(self, expert: ExpertSpec) -> LearnerSpec:
        """Return the learner's settings for one expert, with its overrides applied."""
        return LearnerSpec.model_validate(self.learner.model_dump() | expert.learner)

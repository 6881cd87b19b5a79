"""Job specs: what people submit. Plain data, checked when read; no torch in here."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from zfleet.config.explain import explain
from zfleet.config.learner import LearnerSpec
from zfleet.config.names import CHAMPION
from zfleet.config.spec import ExpertName, Name, Spec
from zfleet.config.task_specs import TaskSpec

DISPATCH_PROMPT = "kind? {prompt}"
"""The first pass's question, in the words that the lab's classifier is trained on."""


class BaseSpec(Spec):
    """Which base, and how it computes."""

    model: str = Field("lab", description="`lab`, a Hugging Face folder, or a hub id")
    name: Name | None = Field(None, description="what requests call it; by default the folder's name")
    targets: str = Field("all", description="`mlp`, `attention`, `all`, or a pattern over module paths")
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"


class VllmSpec(Spec):
    """What only the vLLM engine has."""

    form: Literal["factored", "delta", "dense"] = Field(
        "factored",
        description="`factored` is exact; `delta` keeps the `rank` largest changes of each matrix; `dense` is "
        "`factored`, and merges a z that all requests share for long enough",
    )
    rank: int = Field(64, ge=1, description="directions of each matrix in form `delta`")
    members: int = Field(1, ge=1, description="engines in a job's pool")
    tensor_parallel: int = Field(1, ge=1, description="processes that one engine is split over")
    cache_gib: float = Field(1.0, gt=0, description="memory of the key-value cache on a CPU, in GiB")
    batch_tokens: int = Field(2048, ge=1, description="the most tokens in one step; longer prompts run in pieces")


class EngineSpec(Spec):
    """The engine that generates: its settings, or just its kind (`engine: vllm`)."""

    kind: Literal["torch", "vllm"] = Field(
        "torch", description="`torch` runs inside the worker, `vllm` in processes that all workers share"
    )
    slots: int = Field(128, ge=1, description="answers generated at once")
    max_length: int | None = Field(None, ge=2, description="prompt and answer, in tokens; none: the base's context")
    z_rows: int = Field(64, ge=2, description="rows of the z table, the base's row included")
    vllm: VllmSpec = VllmSpec()

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, given: object) -> object:
        return _described(given)

    @model_validator(mode="after")
    def _vllm_for_vllm(self) -> EngineSpec:
        if self.kind != "vllm" and self.vllm != VllmSpec():
            raise ValueError(f"engine.vllm is set, engine.kind is {self.kind!r}: write `kind: vllm`, or leave it out")
        return self

    def longest(self, context: int) -> int:
        """The longest prompt and answer together on a base with this context, in tokens."""
        return min(self.max_length or context, context)


def _described(engine: object) -> object:
    return {"kind": engine} if isinstance(engine, str) else engine


def _slots(slots: int) -> BeforeValidator:
    """A job's own default, also where its engine is described without slots."""

    def fill(engine: object) -> object:
        described = _described(engine)
        return {"slots": slots} | described if isinstance(described, dict) else described

    return BeforeValidator(fill)


class ResourceSpec(Spec):
    """What one worker or actor gets."""

    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0)
    torch_threads: int = Field(1, ge=1)


class PlacedSpec(Spec):
    """What every job says: which base, and what each worker or actor gets to run it on."""

    base: BaseSpec = BaseSpec()
    resources: ResourceSpec = ResourceSpec()

    @model_validator(mode="after")
    def _device_is_there(self) -> Self:
        if (self.base.device == "cuda") != (self.resources.gpus > 0):
            raise ValueError(
                f"base.device is {self.base.device!r} and resources.gpus is {self.resources.gpus:g}: "
                "`cuda` needs gpus above 0, `cpu` needs 0"
            )
        return self


class ExpertSpec(Spec):
    """One expert to train; `learner` overrides single values of the job's learner."""

    name: ExpertName
    task: TaskSpec
    learner: dict[str, int | float | str | None] = Field({}, description="single values of the job's learner, replaced")

    @model_validator(mode="before")
    @classmethod
    def _targets_are_the_bases(cls, given: object) -> object:
        learner = given.get("learner") if isinstance(given, dict) else None
        if isinstance(given, dict) and "targets" in (*given, *(learner if isinstance(learner, dict) else ())):
            raise ValueError(
                "targets belong to `base`: experts of one job share its factors, in a cohort even every pass; train "
                "one with other targets in a job of its own"
            )
        return given


class TrainSpec(PlacedSpec):
    """`zfleet train`: one Ray Train run per expert."""

    kind: Literal["train"] = "train"
    experts: tuple[ExpertSpec, ...] = Field(min_length=1)
    learner: LearnerSpec = LearnerSpec()
    engine: EngineSpec = EngineSpec()
    cohort: int = Field(1, ge=1, description="experts that one learner trains side by side, over one copy of the base")
    num_workers: int = Field(1, ge=1, description="data-parallel workers of each cohort")
    split: bool = Field(False, description="split the base over the workers of a cohort; `engine: vllm` then answers")
    recompute: bool = Field(False, description="keep what goes into each layer alone, and compute the rest again")
    concurrent_experts: int = Field(2, ge=1, description="cohorts at once")
    checkpoint_every: int = Field(1, ge=1, description="steps; what followed the last is repeated after a loss")
    max_failures: int = Field(2, ge=0, description="restarts after a lost worker")
    eval_samples: int = Field(512, ge=1, description="held-out prompts graded before and after")
    eval_temperature: float = Field(0.0, ge=0, description="0 grades greedy answers")
    storage: str = Field("runs/train", description="checkpoints; on several machines a path all of them share")
    registry: str | None = Field(None, description="MLflow tracking URI; none: sqlite under runs/registry")
    run: Name = Field("train", description="names the run, in a file by default as the file; the same name resumes it")

    @model_validator(mode="after")
    def _consistent(self) -> TrainSpec:
        if self.run == "samples":
            raise ValueError("run is 'samples', the folder in which the samples of all runs lie: use another name")
        if self.split and (self.num_workers < 2 or self.engine.kind != "vllm"):
            raise ValueError(
                f"split is true, num_workers is {self.num_workers} and engine.kind {self.engine.kind!r}: a base is "
                "split over 2 workers or more, and `vllm` answers, which splits it by engine.vllm.tensor_parallel"
            )
        names = [expert.name for expert in self.experts]
        if len(set(names)) != len(names):
            raise ValueError(f"experts have the same name: {sorted({n for n in names if names.count(n) > 1})}")
        for place, expert in enumerate(self.experts):
            try:
                learner = self.learner_of(expert)
            except ValidationError as error:
                raise ValueError("; ".join(explain(error, LearnerSpec, ("experts", place, "learner")))) from None
            if learner.prompts_per_step % self.num_workers:
                raise ValueError(
                    f"prompts_per_step {learner.prompts_per_step} of expert {expert.name!r} does not divide by "
                    f"num_workers {self.num_workers}"
                )
        return self

    def learner_of(self, expert: ExpertSpec) -> LearnerSpec:
        """The learner's settings for one expert, its overrides applied."""
        return LearnerSpec.model_validate(self.learner.model_dump() | expert.learner)


class SearchSpec(PlacedSpec):
    """`zfleet search`: the cross-entropy method over mixture coefficients, run by Ray Tune."""

    kind: Literal["search"] = "search"
    experts: tuple[str, ...] = Field(min_length=1, description="references such as `math`, `math/3`, `math@champion`")
    task: TaskSpec
    name: ExpertName = Field(description="the winning mixture is registered under this name")
    shots: int = Field(10, ge=1)
    shots_seed: int = 0
    seed: int = 0
    population: int = Field(32, ge=2)
    generations: int = Field(8, ge=1)
    elites: float = Field(0.2, gt=0, le=1)
    per_layer: bool = False
    trials_per_generation: int = Field(2, ge=2, description="chunks of a population; each is one engine batch")
    engine: Annotated[EngineSpec, _slots(192)] = EngineSpec(slots=192)
    storage: str = "runs/search"
    registry: str | None = None

    @model_validator(mode="after")
    def _same_shots_for_all(self) -> SearchSpec:
        if self.task.reward.on_error == "skip":
            raise ValueError(
                "task.reward.on_error is 'skip': a search compares candidates on the same shots and leaves none out; "
                "write `stop`"
            )
        return self


class ServeSpec(PlacedSpec):
    """`zfleet serve`: the OpenAI-compatible service."""

    kind: Literal["serve"] = "serve"
    registry: str | None = None
    replicas: int = Field(1, ge=1, description="engines; the fewest where max_replicas is more")
    max_replicas: int | None = Field(None, ge=1, description="the most engines, as the load asks; none: as replicas")
    gateways: int = Field(1, ge=1, description="processes that speak HTTP, on one port of the head node")
    host: str = Field("127.0.0.1", description="where it listens; loopback unless told otherwise")
    port: int = Field(8000, ge=1, le=65535)
    alias: str = Field(CHAMPION, description="which version a bare expert name means")
    classifier: ExpertName = Field("kind", description="the expert that `auto` asks first")
    labels: dict[str, ExpertName] = Field(
        {}, description="label of the first pass: expert of the second; else the same name"
    )
    dispatch_prompt: str = Field(DISPATCH_PROMPT, description="what the first pass is asked")
    max_body_mib: float | None = Field(
        None, gt=0, description="the largest body of a request; none: what the base's context can use"
    )
    engine: Annotated[EngineSpec, _slots(32)] = EngineSpec(slots=32)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> ServeSpec:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}, replicas {self.replicas}: the most must not be below the fewest"
            )
        return self

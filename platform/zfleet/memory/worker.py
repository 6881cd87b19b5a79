"""Memory of the processes of a job: its workers, and the replicas of its engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.compare import ExperimentSpec
from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import BaseSpec, EngineSpec, PlacedSpec, ResourceSpec, TrainSpec
from zfleet.config.transfer import TransferSpec
from zfleet.memory.choose import choose
from zfleet.memory.chosen import Chosen
from zfleet.memory.engine import Answers, engine_parts
from zfleet.memory.learner import LearnerMemory, Samples
from zfleet.memory.node import PROCESS_BYTES, NodeMemory
from zfleet.memory.table import MemoryTable, Part, Room
from zfleet.memory.trace import TracedBase
from zfleet.search.plan import Plan
from zfleet.tasks.fit import FitReport

OTHERS_BYTES = 3 * 2**29
"""An allowance, not a measurement, for the processes beside the workers: driver, Ray's own and its object store."""

_SAMPLE_BYTES = 2048
"""A row of a task as Python holds it, with its prompt and its fields."""

_FULL = 0.95
"""Ray ends workers when this share of a machine's memory is in use."""


@dataclass(frozen=True)
class TaskSize:
    """What decides the memory of a task.

    Attributes:
        longest: Tokens of its longest prompt and answer together.
        answer: Tokens of its longest answer.
        rows: Its rows.
    """

    longest: int
    answer: int
    rows: int

    @classmethod
    def of(cls, fit: FitReport) -> TaskSize:
        """Take the sizes of a task whose prompts were measured."""
        task = fit.task
        longest = min(fit.longest, fit.max_length)
        return cls(longest, min(task.max_tokens, longest), len(task.train) + len(task.test))

    @property
    def prompt(self) -> int:
        """Tokens of its longest prompt."""
        return max(self.longest - self.answer, 1)


def traced_base(folder: Path, spec: BaseSpec) -> TracedBase:
    """Read the configuration of a base whose files are in a folder; of one that takes images the language tower."""
    config = AutoConfig.from_pretrained(folder).get_text_config()
    return TracedBase(config, spec.targets, getattr(torch, spec.dtype))


def train_table(
    spec: TrainSpec, base: TracedBase, tasks: Sequence[TaskSize], room: Room | None, chosen: Chosen | None = None
) -> tuple[Chosen, MemoryTable]:
    """Plan a worker of a training, and replace `auto` in its spec.

    Args:
        spec: The job.
        base: Its base.
        tasks: Of each expert.
        room: What a worker may use; None if that is unknown.
        chosen: What the run computed with before; None chooses.
    """
    learners = [spec.learner_of(expert) for expert in spec.experts]
    experts = min(spec.cohort, len(learners))
    prompts = max(one.prompts_per_step for one in learners) * experts // spec.num_workers
    each = max(one.samples_per_prompt for one in learners)
    longest = max(tasks, key=lambda task: task.longest)
    answer = max(task.answer for task in tasks)
    samples = Samples(
        prompts=max(prompts, 1),
        each=each,
        prompt=max(longest.longest - answer, 1),
        answer=answer,
        experts=experts,
        divergence=any(one.kl > 0 or one.kl_limit is not None for one in learners),
    )
    # In main memory each process holds the whole base while it opens its share.
    on_gpu = spec.base.device == "cuda"
    parts = [*held_parts(base, spec.num_workers if spec.split and on_gpu else 1), _data(tasks)]
    if spec.engine.kind == "torch":
        slots = min(spec.engine.slots, max(samples.prompts * each, spec.eval_samples))
        parts += engine_parts(base, Answers(slots, samples.prompt, answer), spec.engine)
    together = any(one.staleness for one in learners) and spec.engine.kind == "torch"
    memory = LearnerMemory(base, samples)
    asked = min((one.micro_batch_tokens for one in learners if one.micro_batch_tokens != "auto"), default=None)
    if chosen is None:
        taken = MemoryTable("a worker", tuple(parts), together).peak if together else _always(parts)
        left = (room.now if room else 2**62) - taken - memory.optimizer
        chosen = choose(memory, asked or "auto", spec.recompute, left, not on_gpu)
    elif spec.recompute != "auto":
        chosen = replace(chosen, recompute=spec.recompute)
    parts += memory.parts(chosen.micro_batch_tokens, chosen.recompute)
    return chosen, MemoryTable("a worker", tuple(parts), together)


def search_table(spec: SearchSpec, base: TracedBase, task: TaskSize) -> MemoryTable:
    """Plan an actor of a search."""
    if spec.engine.kind != "torch":
        return replica_table(spec.engine, base)
    slots = Answers(min(spec.engine.slots, _answers_at_once(spec, task)), task.prompt, task.answer)
    parts = (*held_parts(base), _data([task]), *engine_parts(base, slots, spec.engine))
    return MemoryTable("an actor of the search", parts)


def _answers_at_once(spec: SearchSpec, task: TaskSize) -> int:
    """Count the answers of a chunk of a search's largest round."""
    # The winner, the base and the best single expert are tested; method `reference` reports on all of the test split.
    tested = task.rows if spec.method.name == "reference" else spec.test_samples
    # Beside the finalists, the method's centre, the base and the best single expert.
    rounds = {"known": (1 + len(spec.experts), spec.shots), "population": (spec.population, spec.shots)}
    rounds |= {"final": (Plan.finalists + 3, spec.finals), "test": (3, tested)}
    return max(samples * -(-candidates // spec.trials_per_generation) for candidates, samples in rounds.values())


def transfer_table(spec: TransferSpec, base: TracedBase, task: TaskSize) -> MemoryTable:
    """Plan the process that answers under the base and every transferred z."""
    if spec.engine.kind != "torch":
        return replica_table(spec.engine, base)
    answers = spec.eval_samples * (1 + 2 * len(spec.experts))
    slots = Answers(min(spec.engine.slots, answers), task.prompt, task.answer)
    parts = (*held_parts(base), _data([task]), *engine_parts(base, slots, spec.engine))
    return MemoryTable("the process that answers", parts)


def evaluate_table(spec: EvaluateSpec, base: TracedBase, tasks: Sequence[TaskSize]) -> MemoryTable:
    """Plan a worker of an evaluation in which every slot has the longest prompt and answer of any task."""
    if spec.engine.kind != "torch":
        return replica_table(spec.engine, base)
    answers = Answers(spec.engine.slots, max(task.prompt for task in tasks), max(task.answer for task in tasks))
    parts = (*held_parts(base), _data(tasks), *engine_parts(base, answers, spec.engine))
    return MemoryTable("a worker of the evaluation", parts)


def calibrate_table(spec: CalibrateSpec, base: TracedBase, tasks: Sequence[TaskSize]) -> MemoryTable:
    """Plan the engine of a calibration: it computes prompts, and the labels after them."""
    if spec.engine.kind != "torch":
        return replica_table(spec.engine, base)
    # A dispatcher of tasks alone asks the engine nothing.
    prompt = max((task.prompt for task in tasks), default=1)
    answers = Answers(spec.engine.slots, prompt, max((task.answer for task in tasks), default=1))
    parts = (*held_parts(base), _data(tasks), *engine_parts(base, answers, spec.engine))
    return MemoryTable("the calibration", parts)


def serve_table(spec: ServeSpec, base: TracedBase, context: int) -> MemoryTable:
    """Plan a replica of a service in which every slot has an answer as long as it may be."""
    if spec.engine.kind != "torch":
        return replica_table(spec.engine, base)
    length = spec.engine.longest(context)
    # The longest prompt leaves room for one token; the cache has grown to the whole length then.
    answers = Answers(spec.engine.slots, length - 1, 1)
    return MemoryTable("a replica", (*held_parts(base), *engine_parts(base, answers, spec.engine)))


def replica_table(engine: EngineSpec, base: TracedBase) -> MemoryTable:
    """Plan a process of vLLM: what it holds, without what its passes allocate."""
    cache = Part("key-value cache", int(engine.vllm.cache_gib * 2**30), "engine.vllm.cache_gib")
    return MemoryTable("a process of vLLM", (*held_parts(base, engine.vllm.tensor_parallel), cache))


def experiment_table(
    spec: ExperimentSpec, base: TracedBase, tasks: Sequence[TaskSize], room: Room | None
) -> tuple[Chosen, MemoryTable]:
    """Plan a training of an experiment as one of `zfleet train`: of SVF; LoRA takes about as much."""
    experts = [{"name": f"t{place}", "task": task} for place, task in enumerate(spec.tasks.values())]
    job = TrainSpec(
        base=spec.base,
        resources=spec.resources,
        experts=experts,
        learner=spec.learner,
        engine=spec.engine,
        eval_samples=spec.eval_samples,
        recompute=False,
    )
    return train_table(job, base, tasks, room)


def held_parts(base: TracedBase, processes: int = 1) -> list[Part]:
    """List what every process with the base holds.

    Args:
        base: The base.
        processes: That it is split over.
    """
    sizes, dtype = base.sizes, str(base.dtype).removeprefix("torch.")
    shared = "processes of a node share them" if processes == 1 else f"split over {processes} processes"
    return [
        Part("weights", sizes.weights // processes, f"{dtype}; {shared}"),
        Part("factors", sizes.factors // processes, f"U diag(s) and Vh, {dtype}; {shared}"),
        Part("the process itself", PROCESS_BYTES, "Python, torch, transformers, Ray: measured"),
    ]


def room_of(spec: PlacedSpec, processes: int, node: NodeMemory, base: TracedBase, beside: int = 0) -> Room | None:
    """Say what one process of a job may use.

    Weights and factors are mapped once for all processes of a node, so that each may count them whole.

    Args:
        spec: The job.
        processes: How many run on a node at once.
        node: The node.
        base: The job's base.
        beside: Bytes of other processes of the job on the node.

    Returns:
        None on a GPU that this process does not see.
    """
    if spec.base.device == "cuda":
        return _room_on_gpu(spec.resources)
    if spec.resources.memory_bytes is not None:
        limit = spec.resources.memory_bytes
        return Room(limit, limit, "that is resources.memory", asked=True)
    shared = base.sizes.weights + base.sizes.factors

    def share(size: float) -> int:
        return max(shared + int(size - OTHERS_BYTES - beside - shared) // processes, 0)

    others = f" is shared by {processes} of them" if processes > 1 else ""
    return Room(share(node.total * _FULL), share(node.available), f"{node.limited_by}{others}")


def _room_on_gpu(resources: ResourceSpec) -> Room | None:
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    share = min(resources.gpus, 1)
    return Room(int(total * share), int(free * share), "the GPU's memory")


def _always(parts: Sequence[Part]) -> int:
    return sum(part.bytes for part in parts if part.when == "always")


def _data(tasks: Sequence[TaskSize]) -> Part:
    rows = sum(task.rows for task in tasks)
    return Part("data", rows * _SAMPLE_BYTES, f"{rows} rows x {_SAMPLE_BYTES:,} B")

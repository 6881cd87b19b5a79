"""How well the memory of a worker is planned: what the plan says over the measured peak, for several settings."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import psutil
import torch

from learning.opened import find_spec
from real.settings import Settings
from zfleet.config.specs import TrainSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import GenerationRequest, SamplingParams
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.memory.worker import TaskSize, traced_base, train_table
from zfleet.models.bundle import locate_base, pack_base
from zfleet.models.recompute import checkpoint_layers
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import SvfWeights
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate

_EVERY_SECONDS = 0.02
_ANSWER = 8


@dataclass(frozen=True)
class Case:
    """One setting of a worker.

    Attributes:
        base: Its base.
        tokens: The most tokens of a micro-batch.
        recompute: Whether layers run again in the backward pass.
        slots: Answers at once.
        prompt: Tokens of every prompt.
        samples: Samples of the step, one of each prompt.
    """

    base: str
    tokens: int
    recompute: bool
    slots: int
    prompt: int
    samples: int

    def __str__(self) -> str:
        again = ", recomputed" if self.recompute else ""
        return f"{self.base}: {self.tokens} tokens{again}, {self.slots} slots"


def cases(base: str) -> list[Case]:
    """List the settings that are measured: sizes of micro-batches, with and without recomputation, and slots."""
    return [
        Case(base, 256, False, 8, 120, 8),
        Case(base, 1024, False, 8, 120, 8),
        Case(base, 1024, True, 8, 120, 8),
        Case(base, 2048, True, 16, 120, 16),
        Case(base, 256, False, 48, 120, 48),
        Case("lab", 8192, False, 128, 24, 256),
        Case("lab", 1024, True, 16, 24, 64),
    ]


def memory(settings: Settings) -> dict[str, Any]:
    """Return planned over measured peak of each case: ``memory_...``; a plan is good within a quarter."""
    figures = {}
    for case in cases(settings.base):
        settings.tell(f"memory: {case}")
        planned = _planned(case)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            measured = pool.submit(_measured, case, settings.threads).result()
        again = "_recompute" if case.recompute else ""
        figures[f"memory_{case.base}_{case.tokens}{again}_{case.slots}"] = {
            "median": planned / measured,
            "planned_mib": planned / 2**20,
            "measured_mib": measured / 2**20,
            "ratio": f"planned over measured peak, {case}: {planned / 2**20:.0f} of {measured / 2**20:.0f} MiB",
        }
    return figures


def _spec(case: Case) -> TrainSpec:
    # Nobody reads its file: prompts are random tokens.
    task = {"jsonl": "none.jsonl", "max_tokens": _ANSWER, "reward": {"kind": "contains", "value": "a"}}
    return TrainSpec.model_validate(
        {
            "base": find_spec(case.base).model_dump(),
            "experts": [{"name": "measured", "task": task}],
            "learner": {"prompts_per_step": case.samples, "micro_batch_tokens": case.tokens},
            "engine": {"slots": case.slots},
            "recompute": case.recompute,
            "eval_samples": 1,
        }
    )


def _planned(case: Case) -> int:
    spec = _spec(case)
    base = traced_base(locate_base(spec.base)[1], spec.base)
    size = TaskSize(case.prompt + _ANSWER, _ANSWER, case.samples)
    _, table = train_table(spec, base, [size], None)
    return table.peak


def _measured(case: Case, threads: int) -> int:
    """Do as a worker does for a step, and return the most memory that this process had, mapped files included."""
    import_module("ray.train")  # a worker has loaded it, too
    torch.set_num_threads(threads)
    spec = _spec(case)
    with _peak() as peak:
        weights = SvfWeights(pack_base(spec.base).open())
        if case.recompute:
            checkpoint_layers(weights.model)
        task = Task("none", (), (), PromptTemplate(), lambda text, sample: Grade(0.0), _ANSWER)
        expert = ExpertInTraining(weights, task, spec.learner)
        with SyncEngine(TorchEngine(weights.model, spec.engine)) as engine:
            learner = Learner(weights, engine, [expert])
            rollouts = _rollouts(case, engine, learner)
            # Two micro-batches: more of them take no more memory.
            learned = rollouts[: max(2 * case.tokens // (case.prompt + _ANSWER), 2)]
            learner.mean_gradients(learner.compare([expert], [learned]))
    return peak[0]


def _rollouts(case: Case, engine: SyncEngine, learner: Learner) -> list[Rollout]:
    """Answer prompts of random tokens under the expert's z."""
    chance, vocabulary = random.Random(0), int(learner.weights.model.base.model.config.vocab_size)
    z = learner.weights.z(learner.experts[0].spec, learner.experts[0].p)
    assert z is not None
    sampling = SamplingParams(max_tokens=_ANSWER, seed=0, ignore_eos=True)
    prompts = [tuple(chance.randrange(4, vocabulary) for _ in range(case.prompt)) for _ in range(case.samples)]
    digest = engine.put_z(z)
    answers = engine.generate([GenerationRequest(prompt, sampling, digest) for prompt in prompts])
    return [
        Rollout(Sample(str(group), ""), group, prompt, answer.token_ids, "", Grade(chance.choice([-1.0, 1.0])))
        for group, (prompt, (answer,)) in enumerate(zip(prompts, answers, strict=True))
    ]


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Measure the most proportional set size of this process inside the block, in bytes."""
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(_EVERY_SECONDS):
            most[0] = max(most[0], proportional_bytes())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
        most[0] = max(most[0], proportional_bytes())
    finally:
        ended.set()
        thread.join()


def proportional_bytes(pid: int | None = None) -> int:
    """Read the memory of a process, by default of this one; pages that others share count in parts."""
    return int(psutil.Process(pid).memory_full_info().pss)

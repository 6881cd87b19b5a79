"""Small training jobs whose rewards count their calls, so that a test can do something at an exact one."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zfleet.config.specs import TrainSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.base import base_slug
from zfleet.models.bundle import pack_base
from zfleet.models.fingerprint import fingerprint
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.weights import SvfWeights
from zfleet_jobs.train.plan import make_plans
from zfleet_registry import ExpertRegistry

STEPS, PROMPTS, GRADED = 6, 8, 6
CALLS = GRADED + STEPS * PROMPTS + GRADED
"""How often a run asks its reward: held-out prompts before, steps, held-out prompts after."""
IN_STEP_5 = GRADED + 4 * PROMPTS + 3
CALLS_FROM_STEP_5 = 2 * PROMPTS + GRADED
"""How often it asks when it goes on after step 4: the base's score is stored."""

GRADERS = "graders_of_training_tests"
_PRELUDE = '''
import os, signal, time
from pathlib import Path

ROOT = Path({root!r})


def _call(name):
    """Log a call; its number over all processes."""
    log = ROOT / (name + ".log")
    with log.open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    return len(log.read_text().split())


def _first(name):
    """Whether this place was reached for the first time."""
    marker = ROOT / (name + ".reached")
    if marker.exists():
        return False
    marker.touch()
    return True


def _at(name, call):
    """Whether this is that call, for the first time; logs it."""
    return _call(name) == call and _first(name)


def _kill(name):
    """Kill the process whose id is in a file."""
    os.kill(int((ROOT / name).read_text()), signal.SIGKILL)


def _grade(completion):
    return 1.0 if "a" in completion else -1.0
'''
"""Graders end with ``_grade``, as `contains: a` does, so that all teach the same z."""


@dataclass(frozen=True)
class Place:
    """The folder that the runs of a file of tests use.

    Attributes:
        root: Their folder.
        base: The base that they train.
    """

    root: Path
    base: Path

    @property
    def slug(self) -> str:
        """The base's qualifier in the registry."""
        return base_slug(self.base.name, fingerprint(self.base))

    @property
    def storage(self) -> Path:
        """Where runs are stored."""
        return self.root / "storage"

    @property
    def registry(self) -> ExpertRegistry:
        """The registry of all jobs here."""
        return ExpertRegistry(f"sqlite:///{self.root}/mlflow.db")

    def spec(self, rewards: dict[str, dict[str, str]], **changes: Any) -> TrainSpec:
        """Specify a job of one expert for each reward, all on the same prompts; the run is named after them."""
        task = {"jsonl": str(self.root / "prompts.jsonl"), "template": "{prompt}", "max_tokens": 4}
        settings = {
            "base": {"model": str(self.base)},
            "experts": [{"name": name, "task": task | {"reward": reward}} for name, reward in rewards.items()],
            "learner": {"steps": STEPS, "prompts_per_step": PROMPTS, "lr": 0.05, "seed": 3},
            "engine": {"slots": 16, "max_length": 24},
            "eval_samples": GRADED,
            "storage": str(self.storage),
            "registry": f"sqlite:///{self.root}/mlflow.db",
            "run": "-".join(rewards),
        }
        return TrainSpec.model_validate(settings | changes)

    def undisturbed(self) -> str:
        """Return the digest of the z that every grader here teaches, learned by the plain loop in this process.

        Jobs that lose something on the way must end with the same z, bit for bit.
        """
        spec = self.spec({"undisturbed": contains("a")})
        bundle = pack_base(spec.base)
        (plan,) = make_plans(spec, bundle, here=True)
        weights = SvfWeights(bundle.open())
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            with SyncEngine(TorchEngine(weights.model, spec.engine)) as engine:
                expert = ExpertInTraining(weights, plan.fit.task, spec.learner, plan.expert.name)
                learner = Learner(weights, engine, [expert])
                while not expert.done:
                    learner.step()
                learner.close()
        finally:
            torch.use_deterministic_algorithms(before, warn_only=True)
        return weights.z(expert.spec, expert.selected_p).digest

    def calls(self, name: str) -> Counter[int]:
        """Count the calls of a reward: {pid: calls}."""
        return Counter(map(int, (self.root / f"{name}.log").read_text().split()))

    def process(self, name: str, pid: int) -> None:
        """Write down the pid of a process that a grader will kill."""
        (self.root / name).write_text(str(pid))


def contains(value: str) -> dict[str, str]:
    """Specify the reward for answers that hold a text."""
    return {"kind": "contains", "value": value}


def python(function: str) -> dict[str, str]:
    """Specify the reward of a grader."""
    return {"kind": "python", "value": f"{GRADERS}:{function}"}


@contextmanager
def training_place(root: Path, base: Path, graders: str) -> Iterator[Place]:
    """Make a folder of prompts and graders the current one inside the block.

    Args:
        root: The folder.
        base: A Hugging Face folder.
        graders: Functions, as Python source.
    """
    prompts = [f"{verb} {left}{right}" for verb in ("flip", "sort") for left in "abcdef" for right in "xyz"]
    rows = [{"prompt": prompt} for prompt in [*prompts, "flip " + "abc" * 20, "sort " + "xyz" * 20]]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / f"{GRADERS}.py").write_text(_PRELUDE.format(root=str(root)) + graders)
    before, cache = Path.cwd(), os.environ.get("ZFLEET_CACHE")
    os.environ["ZFLEET_CACHE"] = str(root / "cache")
    os.chdir(root)
    sys.path.insert(0, str(root))
    try:
        yield Place(root, base)
    finally:
        os.chdir(before)
        sys.path.remove(str(root))
        sys.modules.pop(GRADERS, None)
        if cache is None:
            del os.environ["ZFLEET_CACHE"]
        else:
            os.environ["ZFLEET_CACHE"] = cache

"""Do four experts in training get as much out of one fleet of engines as one expert does?

    python benchmarks/rollout_pool.py                      a table, a few minutes on two cores
    python benchmarks/rollout_pool.py --json > result.json
    python benchmarks/rollout_pool.py --engine torch --base lab
    python benchmarks/rollout_pool.py --against CHECKOUT   this checkout and another one in turns, some 25 minutes

One fleet, the same number of requests: they come from one learner with one z, or a quarter from each of four learners
with a z each. Learners are Ray actors. A step is what a step of training asks of a fleet: put a z that nobody has
seen, sample groups of answers, drop the z. Both take turns, twelve times or more; a ratio is of neighbours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from exit_code import exit_code
from hetero.base import base_spec, build_base, find_shape
from hetero.statistics import estimate
from zfleet.config.specs import BaseSpec, EngineSpec, ResourceSpec
from zfleet.engine.contract import GenerationRequest, SamplingParams
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.zvector import ZVector
from zfleet_cluster import cluster
from zfleet_cluster.fleet.actors import Fleet, actor_fleet
from zfleet_cluster.fleet.base import ship
from zfleet_cluster.fleet.client import FleetEngine

EXPERTS = 4
BAR = 0.9

_SPREAD = 0.1
"""Standard deviation of the experts' values around 1; what a step costs does not depend on it."""


class Learner:
    """Asks the fleet as a learner's rollouts do."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._engine: FleetEngine | None = None

    async def step(self, z: bytes, prompts: Sequence[tuple[int, ...]], samples: int, tokens: int) -> int:
        """Put a z, sample ``samples`` answers of ``tokens`` tokens to each prompt, drop it; how many tokens came."""
        if self._engine is None:
            self._engine = self._fleet.engine()
        engine = self._engine
        digest = await engine.put_z(ZVector.from_bytes(z, "the benchmark's z"))
        sampling = SamplingParams(temperature=1.0, max_tokens=tokens, n=samples, logprobs=True, ignore_eos=True)

        async def answer(prompt: tuple[int, ...]) -> int:
            request = GenerationRequest(prompt, sampling, z_digest=digest, stream=False)
            return sum([len(chunk.token_ids) async for chunk in engine.generate(request)])

        got = sum(await asyncio.gather(*map(answer, prompts)))
        await engine.drop_z(digest)
        return got


class Steps:
    """Steps of some learners at once, each with a z that was never there before."""

    def __init__(self, bundle: BaseBundle, learners: Sequence[Any], options: argparse.Namespace) -> None:
        self._model = bundle.open()
        self._vocabulary = len(bundle.tokenizer())
        self._learners = learners
        self._options = options
        self._chance = random.Random(0)
        self._noise = torch.Generator().manual_seed(0)

    def rate(self, experts: int) -> float:
        """Tokens a second of one step of ``experts`` learners; all requests together are always as many."""
        options = self._options
        learners = self._learners[:experts]
        words = range(4, self._vocabulary)
        prompts = [tuple(self._chance.choices(words, k=options.prompt_tokens)) for _ in range(options.prompts)]
        zs = [self._random_z() for _ in learners]
        began = time.perf_counter()
        steps = [
            learner.step.remote(z, prompts[place::experts], options.samples, options.answer_tokens)
            for place, (learner, z) in enumerate(zip(learners, zs, strict=True))
        ]
        tokens = sum(map(int, ray.get(steps)))
        seconds = time.perf_counter() - began
        asked = options.prompts * options.samples * options.answer_tokens
        if tokens != asked:
            raise RuntimeError(f"{tokens} tokens came, {asked} were asked for")
        return tokens / seconds

    def _random_z(self) -> bytes:
        noise = torch.randn(self._model.layout.size, generator=self._noise)
        return self._model.z_from_flat(1 + _SPREAD * noise).to_bytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.against is not None:
        _compare(options)
        return
    one, four = _measure(options)
    ratios = [b / a for a, b in zip(one, four, strict=True)]
    found = {"1": estimate(one), str(EXPERTS): estimate(four), "ratio": estimate(ratios)}
    if options.json:
        print(
            json.dumps(
                {"settings": vars(options) | {"against": None}, **{name: vars(value) for name, value in found.items()}},
                indent=2,
            )
        )
        return
    table = Table("experts on one fleet", "median", "95% interval", title=f"engine {options.engine}, tokens a second")
    for name, value in found.items():
        digits = 3 if name == "ratio" else 0
        interval = f"{value.low:.{digits}f} to {value.high:.{digits}f}"
        table.add_row(name if name != "ratio" else f"{EXPERTS} over 1", f"{value.median:.{digits}f}", interval)
    Console().print(table, f"asked for is {BAR}: {'reached' if found['ratio'].reaches(BAR) else 'MISSED'}")


def _compare(options: argparse.Namespace) -> None:
    """Print the tokens a second of ``EXPERTS`` learners here and in another checkout, and their ratio."""
    sides = {"here": Path(__file__).parents[1], "there": options.against.resolve()}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    progress = Console(stderr=True)
    for number in track(range(options.turns), "turns", console=progress):
        for side in sides if number % 2 else reversed(sides):
            rates[side].append(_rate_of(sides[side], options))
        # A turn takes minutes: whoever stops the benchmark keeps those that were finished.
        progress.print(", ".join(f"{side} {values[-1]:.0f} tokens/s" for side, values in rates.items()))
    ratios = [here / there for here, there in zip(rates["here"], rates["there"], strict=True)]
    found = {side: estimate(values) for side, values in rates.items()} | {"ratio": estimate(ratios)}
    if options.json:
        print(json.dumps({name: vars(value) for name, value in found.items()}, indent=2))
        return
    table = Table("checkout", "median", "95% interval", title=f"{EXPERTS} experts, tokens a second")
    for name, value in found.items():
        digits = 3 if name == "ratio" else 0
        table.add_row(name, f"{value.median:.{digits}f}", f"{value.low:.{digits}f} to {value.high:.{digits}f}")
    Console().print(table, f"asked for is 1: {'reached' if found['ratio'].reaches(1.0) else 'MISSED'}")


def _rate_of(checkout: Path, options: argparse.Namespace) -> float:
    """The median rate of some rounds, by the benchmark and the code of a checkout."""
    roots = ("platform", "jobs", "experts_registry", "serve", "infra", "benchmarks")
    command = [sys.executable, str(checkout / "benchmarks" / "rollout_pool.py"), "--json", "--rounds", "3"]
    done = subprocess.run(
        [*command, "--base", options.base, "--engine", options.engine],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(str(checkout / root) for root in roots)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(json.loads(done.stdout)[str(EXPERTS)]["median"])


def _measure(options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Rates of one learner and of ``EXPERTS``, round by round."""
    bundle = pack_base(_base(options.base))
    kind: Literal["torch", "vllm"] = options.engine
    spec = EngineSpec(kind=kind, slots=options.slots, max_length=options.prompt_tokens + options.answer_tokens)
    with cluster(None), actor_fleet(ship(bundle), spec, ResourceSpec(), options.replicas) as fleet:
        actor: Any = ray.remote(Learner)
        learners = [actor.options(num_cpus=0).remote(fleet) for _ in range(EXPERTS)]
        steps = Steps(bundle, learners, options)
        for experts in (1, EXPERTS):
            steps.rate(experts)
        rates: dict[int, list[float]] = {1: [], EXPERTS: []}
        for number in track(range(options.rounds), "rounds", console=Console(stderr=True)):
            for experts in (1, EXPERTS) if number % 2 else (EXPERTS, 1):
                rates[experts].append(steps.rate(experts))
    return rates[1], rates[EXPERTS]


def _base(name: str) -> BaseSpec:
    if name != "eighth":
        return BaseSpec(model=name)
    shape = find_shape(name)
    return base_spec(shape, build_base(shape), "all")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="eighth", help="eighth (25 million parameters), lab, a folder or a hub id")
    parser.add_argument("--engine", choices=("vllm", "torch"), default="vllm")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--slots", type=int, default=64, help="of each replica")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=16, help="of a step, all learners together")
    parser.add_argument("--samples", type=int, default=8, help="answers to each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of zfleet")
    parser.add_argument("--turns", type=int, default=6, help="of each checkout, with --against")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

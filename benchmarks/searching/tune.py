"""The part of a search's time that Ray Tune takes: its barrier, its scheduling, its state on disk.

Two searches that differ in their generations alone run one after the other; the difference of their times is that of
generations, without the start of Ray's actors. What the actors were busy with is subtracted.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hetero.statistics import estimate
from learning.opened import find_spec
from real.generation import random_experts
from searching.settings import Settings
from zfleet.config.specs import EngineSpec
from zfleet.models.bundle import pack_base
from zfleet.rewards.text import Exact
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet_cluster import cluster
from zfleet_cluster.fleet.base import ship
from zfleet_jobs.search.mixtures import FoundMixture, search_mixtures
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.settings import SearchSettings

EXPERTS, SHOTS = 4, 10
PROMPT_WORDS, ANSWER_TOKENS = 12, 8
SHORT, LONG = 2, 8
"""Generations."""

SETTINGS = SearchSettings(engine=EngineSpec(slots=160, max_length=32))


def tune(settings: Settings) -> dict[str, Any]:
    """Measure ``tune_share`` of a search without racing, whose rounds are whole populations, and of one with it."""
    bundle = pack_base(find_spec("eighth"))
    experts = {str(place): z for place, z in enumerate(random_experts(bundle.open(), EXPERTS))}
    figures: dict[str, Any] = {}
    with cluster(None), tempfile.TemporaryDirectory(prefix="zfleet-bench-") as scratch:
        shipped = ship(bundle)
        for name, block in (("tune_share", None), ("tune_share_racing", 2)):
            shares = []
            for turn in range(settings.rounds):
                settings.tell(f"{name}, turn {turn + 1} of {settings.rounds}")
                problem = SearchProblem("tune", experts, _task(turn))

                def run(generations: int, problem: SearchProblem = problem, block: int | None = block) -> FoundMixture:
                    chosen = replace(SETTINGS, generations=generations, block=block)
                    return search_mixtures(shipped, [problem], chosen, Path(scratch))[0]

                short, long = run(SHORT), run(LONG)
                wall = long.seconds - short.seconds
                busy = (_busy(long) - _busy(short)) / max(len(long.actors), 1)
                shares.append(1 - busy / wall)
            found = estimate(shares)
            figures[name] = {
                "median": found.median,
                "ci95": [found.low, found.high],
                "ratio": "of the seconds of a generation, those that no actor worked",
                "bar": 0.15 if block is None else None,
            }
    return figures


def _busy(found: FoundMixture) -> float:
    return sum(trial.seconds for trial in found.trials)


def _task(seed: int) -> Task:
    chance = random.Random(seed)
    samples = tuple(
        Sample(str(number), " ".join(f"w{chance.randrange(4, 2048)}" for _ in range(PROMPT_WORDS)), "w5")
        for number in range(SHOTS)
    )
    return Task("tune", samples, (), PromptTemplate("{prompt}"), Exact(), ANSWER_TOKENS)

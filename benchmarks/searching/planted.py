"""Three experts planted among 64: does the search find them, and at what price?

A teacher, a mixture of three of the experts, answers random prompts in a few words; the search sees prompts and
answers, and its objective is the answers' likelihood. All experts are random, so that nothing but the answers tells the
three from the others.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from learning.opened import open_base
from real.generation import random_experts
from searching.loop import searched
from searching.settings import Settings
from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import GenerationRequest, SamplingParams
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.svf_model import SvfModel
from zfleet.rewards.text import Exact
from zfleet.search.objective import LOG_LIKELIHOOD, Objective
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet_jobs.search.problem import SearchProblem, drawn
from zfleet_jobs.search.settings import SearchSettings

EXPERTS, FEW, PLANTED = 64, 8, 3
ALPHAS = (0.9, 0.8, 0.7)
SHOTS, SELECTION, PROMPT_WORDS, ANSWER_WORDS = 10, 20, 6, 4
SPREAD = 0.2
"""Of the experts' values: the base then answers one prompt in ten as the teacher does."""
_PROMPTS = 200

SETTINGS = SearchSettings(objective=Objective(({LOG_LIKELIHOOD: 1.0},), None), block=2, keep=FEW)


def planted(settings: Settings) -> dict[str, Any]:
    """Measure ``planted_found``, the part of the seeds in which the winner's three largest alphas are the planted
    experts', and ``planted_evaluations``, the answers it took over those with eight experts.
    """
    opened = open_base("eighth")
    model, tokenizer = SvfModel(opened.base, opened.factors), opened.base.tokenizer
    experts = random_experts(model, EXPERTS, SPREAD)
    found, few, ratios = [], [], []
    with SyncEngine(TorchEngine(model, EngineSpec(slots=320, max_length=32, z_rows=EXPERTS + 8))) as engine:
        for seed in range(settings.seeds):
            settings.tell(f"planted experts, seed {seed + 1} of {settings.seeds}")
            chance = random.Random(seed)
            right = set(chance.sample(range(EXPERTS), PLANTED))
            task = _task(engine, tokenizer, [experts[place] for place in sorted(right)], seed)
            of_all, evaluations = _searched(engine, tokenizer, experts, range(EXPERTS), task, seed)
            others = chance.sample(sorted(set(range(EXPERTS)) - right), FEW - PLANTED)
            of_few, fewer = _searched(engine, tokenizer, experts, sorted([*right, *others]), task, seed)
            found.append(of_all == right)
            few.append(of_few == right)
            ratios.append(evaluations / fewer)
    return {
        "planted_found": {
            "median": sum(found) / len(found),
            "ratio": f"of {len(found)} seeds, all {PLANTED} of {EXPERTS} found",
            "bar": 0.9,
        },
        "planted_found_of_8": {"median": sum(few) / len(few), "ratio": f"the same of {FEW}"},
        "planted_evaluations": {
            "median": float(np.median(ratios)),
            "ratio": f"answers with {EXPERTS} experts / with {FEW}",
            "bar": 2.0,
        },
    }


def _task(engine: SyncEngine, tokenizer: PreTrainedTokenizerBase, experts: list[ZVector], seed: int) -> Task:
    """Let the teacher answer random prompts."""
    chance = random.Random(seed)
    prompts = [
        " ".join(f"w{chance.randrange(4, len(tokenizer))}" for _ in range(PROMPT_WORDS)) for _ in range(_PROMPTS)
    ]
    digest = engine.put_z(mix(experts, ALPHAS))
    sampling = SamplingParams(temperature=0, max_tokens=ANSWER_WORDS, ignore_eos=True)
    answers = engine.generate([GenerationRequest(prompt, sampling, digest) for prompt in prompts])
    engine.drop_z(digest)
    samples = tuple(
        Sample(str(number), prompt, " ".join(tokenizer.convert_ids_to_tokens(list(answer.token_ids))))
        for number, (prompt, (answer,)) in enumerate(zip(prompts, answers, strict=True))
    )
    return Task("planted", samples, (), PromptTemplate("{prompt}"), Exact(), ANSWER_WORDS)


def _searched(
    engine: SyncEngine, tokenizer: PreTrainedTokenizerBase, experts: list[ZVector], places: Any, task: Task, seed: int
) -> tuple[set[int], int]:
    """Return the experts with the three largest alphas, and the answers that the search took."""
    places = list(places)
    shots, selection = drawn(task, SHOTS, SELECTION, seed)
    problem = SearchProblem("planted", {str(place): experts[place] for place in places}, shots, selection)
    settings = replace(SETTINGS, keep=FEW if len(places) > FEW else None, seed=seed)
    search, outcome = searched(engine, tokenizer, problem, settings)
    largest = np.argsort(-outcome.winner, kind="stable")[:PLANTED]
    return {places[place] for place in largest}, search.evaluations

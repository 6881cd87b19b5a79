"""A search as a plain loop in this process, without Ray."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from zfleet.engine.blocking import SyncEngine
from zfleet.search.plan import Outcome
from zfleet.search.search import Search
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.scoring import measure_candidates
from zfleet_jobs.search.settings import SearchSettings


def searched(
    engine: SyncEngine, tokenizer: PreTrainedTokenizerBase, problem: SearchProblem, settings: SearchSettings
) -> tuple[Search, Outcome]:
    """Run a search to its end."""
    search = problem.search(settings)
    while (pending := search.pending) is not None:
        points = pending.points.tolist()
        measured = measure_candidates(engine, tokenizer, problem, settings, points, pending.samples)
        search.tell([np.array(one) for one in measured])
    assert search.outcome is not None
    return search, search.outcome

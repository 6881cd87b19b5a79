"""Racing with fresh finals against the full search: accuracy, answers, optimism, on the lab base's own experts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from learning.lab_experts import train_lab_experts
from searching.loop import searched
from searching.settings import Settings
from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.bundle import pack_base
from zfleet.rl.weights import SvfWeights
from zfleet.tasks.lab import FAMILIES_OF, lab_task
from zfleet_jobs.search.problem import SearchProblem, drawn
from zfleet_jobs.search.settings import SearchSettings

EXAM = "exam_trained"
SHOTS, SELECTION, BLOCK, TEST = 40, 40, 5, 500
_TIMES = 4
"""An interval of one point needs more searches than the other parts."""


def racing(settings: Settings) -> dict[str, Any]:
    """Measure the accuracy that racing loses, the part of the answers it takes, and the part of the optimism."""
    bundle = pack_base(BaseSpec())
    weights, tokenizer = SvfWeights(bundle.open()), bundle.tokenizer()
    names = FAMILIES_OF[EXAM]
    lost, saved, optimism = [], [], []
    with SyncEngine(TorchEngine(weights.model, EngineSpec(slots=256))) as engine:
        experts = dict(zip(names, train_lab_experts(weights, engine, names, settings.tell), strict=True))
        for seed in range(settings.seeds * _TIMES):
            settings.tell(f"racing, search {seed + 1} of {settings.seeds * _TIMES}")
            task = lab_task(EXAM, test_size=TEST)
            shots, selection = drawn(task, SHOTS, SELECTION, seed)
            full, found = searched(
                engine, tokenizer, SearchProblem("full", experts, shots), replace(SearchSettings(), seed=seed)
            )
            raced, fast = searched(
                engine,
                tokenizer,
                SearchProblem("raced", experts, shots, selection),
                replace(SearchSettings(), seed=seed, block=BLOCK),
            )
            truth, other = (float(one.test["winner"][:, 0].mean()) for one in (found, fast))
            lost.append(truth - other)
            saved.append(raced.evaluations / full.evaluations)
            optimism.append((fast.selection["winner"][0] - other, found.shots["winner"][0] - truth))
    own, theirs = np.mean(optimism, axis=0)
    return {
        "racing_loss": _mean(lost)
        | {"ratio": "held-out accuracy of the full search minus racing's, the same shots", "bar": 0.01},
        "racing_answers": _mean(saved) | {"ratio": "answers of racing / of the full search", "bar": 0.40},
        "racing_optimism": {
            "median": own / theirs,
            "ratio": f"reported minus held-out, racing's {own:.3f} / the full search's {theirs:.3f}",
            "bar": 0.5,
        },
    }


def _mean(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean and Student's 95 % interval."""
    reach = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return {"median": mean, "ci95": [mean - reach, mean + reach]}

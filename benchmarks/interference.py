"""Does the angle or the overlap of two experts' changes predict what each loses when they are mixed?

    python benchmarks/interference.py                   nine lab experts, 36 pairs: some minutes on one core
    python benchmarks/interference.py --json > result.json
    python benchmarks/interference.py --quick           two steps and few prompts: does it run at all

An expert is trained for each task of the lab base, all of them in one learner in this process. Every pair a, b is
mixed with alphas of 1, z = 1 + (z_a - 1) + (z_b - 1), and answers the held-out prompts of both tasks greedily.

- predicted: cosine and overlap of the two changes, and how many times as large as its own change the other one is
  (``zfleet.svf.interference``), from z and singular values alone.
- measured: the shortfall, accuracy of an expert alone minus that of the mixture on the same prompts, of both experts.
- ``rank_correlation``: Spearman's, of prediction and measurement. Cosine and overlap are those of a pair, whose
  shortfall is the mean of the two; sizes are compared for each expert of each pair. The interval covers the choice of
  experts, of which there are nine and not 36.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import mean
from typing import Any

import torch
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table

from exit_code import exit_code
from learning.opened import open_base
from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.evaluate.graded import evaluate
from zfleet.evaluate.interference import Pair, Shortfall, measure_shortfall, rank_correlation
from zfleet.evaluate.statistics.estimate import Estimate
from zfleet.models.svf_model import SvfModel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.weights import SvfWeights
from zfleet.svf.interference import Interference, predict_interference
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import lab_task
from zfleet.tasks.task import Task

TASKS = (
    *("reverse", "sort", "add", "lookup", "kind", "rotate"),
    *("reverse_digits", "sort_digits", "table_sum"),
)
"""Every lab task that has an expert to learn; exams are mixtures of these."""

_QUICK_STEPS, _QUICK_PROMPTS = 2, 20
_WIDTH = 120
"""Columns of tables that go into a file."""


@dataclass(frozen=True)
class MeasuredPair:
    """Two experts and their mixture.

    Attributes:
        cosine, overlap: Of their changes, over all matrices.
        larger: {expert: size of the other's change over that of its own}.
        shortfalls: {expert: on its own task}.
    """

    cosine: float
    overlap: float
    larger: Mapping[str, float]
    shortfalls: Mapping[str, Shortfall]

    @property
    def shortfall(self) -> float:
        """Mean of both."""
        return mean(one.shortfall.mean for one in self.shortfalls.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    steps, prompts = (_QUICK_STEPS, _QUICK_PROMPTS) if options.quick else (options.steps, options.prompts)
    opened = open_base("lab")
    model = SvfModel(opened.base, opened.factors)
    tasks = {name: lab_task(name, test_size=prompts) for name in TASKS}
    with SyncEngine(TorchEngine(model, EngineSpec(slots=256))) as engine:
        experts = train_experts(model, engine, tasks, LearnerSpec(steps=steps, seed=options.seed))
        pairs = measure_pairs(model, engine, tasks, experts)
    correlations = correlate(pairs)
    if options.json:
        print(json.dumps(_plain(pairs, correlations, {**vars(options), "steps": steps, "prompts": prompts}), indent=2))
    else:
        console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
        console.print(Group(_experts_table(pairs), _pairs_table(pairs), _correlations_table(correlations)))


def train_experts(
    model: SvfModel, engine: SyncEngine, tasks: Mapping[str, Task], spec: LearnerSpec
) -> dict[str, ZVector]:
    """Train an expert for each task, side by side in one learner: {task: z}."""
    weights = SvfWeights(model)
    experts = [ExpertInTraining(weights, task, spec, name) for name, task in tasks.items()]
    learner = Learner(weights, engine, experts)
    with Progress(console=Console(stderr=True)) as progress:
        for _ in progress.track(range(spec.steps), description="training"):
            learner.step()
    learner.close()
    return {expert.name: weights.z(expert.spec, expert.selected_p) for expert in experts}


def measure_pairs(
    model: SvfModel, engine: SyncEngine, tasks: Mapping[str, Task], experts: Mapping[str, ZVector]
) -> dict[Pair, MeasuredPair]:
    """Mix every pair of experts, and let base, expert and mixtures answer the held-out prompts of each task."""
    pairs = list(combinations(experts, 2))
    mixtures = {pair: mix([experts[name] for name in pair], [1.0, 1.0]) for pair in pairs}
    found: dict[Pair, dict[str, Shortfall]] = {pair: {} for pair in pairs}
    with Progress(console=Console(stderr=True)) as progress:
        for name, task in progress.track(tasks.items(), description="measuring"):
            base = _rewards(model, engine, task, None)
            alone = _rewards(model, engine, task, experts[name])
            for pair in pairs:
                if name in pair:
                    found[pair][name] = measure_shortfall(base, alone, _rewards(model, engine, task, mixtures[pair]))
    predicted = predict_interference(experts, model.factors)
    return {pair: _predicted(predicted, pair, found[pair]) for pair in pairs}


def _predicted(predicted: Interference, pair: Pair, shortfalls: Mapping[str, Shortfall]) -> MeasuredPair:
    a, b = (predicted.experts.index(name) for name in pair)
    ratio = float(predicted.size[b] / predicted.size[a])
    return MeasuredPair(
        float(predicted.overall.cosine[a, b]),
        float(predicted.overall.overlap[a, b]),
        {pair[0]: ratio, pair[1]: 1 / ratio},
        shortfalls,
    )


def correlate(pairs: Mapping[Pair, MeasuredPair]) -> dict[str, Estimate]:
    """Correlate each prediction with the shortfall: {prediction: Spearman's, with its interval over experts}."""
    measured = {names: pair.shortfall for names, pair in pairs.items()}
    of_each = {key: pair for (a, b), pair in pairs.items() for key in ((a, b), (b, a))}
    return {
        "cosine": rank_correlation({names: pair.cosine for names, pair in pairs.items()}, measured),
        "overlap": rank_correlation({names: pair.overlap for names, pair in pairs.items()}, measured),
        "size of the other's change over its own": rank_correlation(
            {(name, other): pair.larger[name] for (name, other), pair in of_each.items()},
            {(name, other): pair.shortfalls[name].shortfall.mean for (name, other), pair in of_each.items()},
        ),
    }


def _rewards(model: SvfModel, engine: SyncEngine, task: Task, z: ZVector | None) -> tuple[float | None, ...]:
    digest = BASE_Z if z is None else engine.put_z(z)
    try:
        return evaluate(engine, model.base.tokenizer, task, task.test, digest).graded
    finally:
        if z is not None:
            engine.drop_z(digest)


def _experts_table(pairs: Mapping[Pair, MeasuredPair]) -> Table:
    table = Table("expert", "prompts", "base", "alone", "mixed with one other, mean and worst", title="on its own task")
    for name in dict.fromkeys(name for names in pairs for name in names):
        own = [pair.shortfalls[name] for names, pair in pairs.items() if name in names]
        mixed = [one.mixed for one in own]
        table.add_row(
            name, str(own[0].n), f"{own[0].base:.3f}", f"{own[0].alone:.3f}", f"{mean(mixed):.3f}, {min(mixed):.3f}"
        )
    return table


def _pairs_table(pairs: Mapping[Pair, MeasuredPair]) -> Table:
    names = ("cosine", "overlap", "b's size over a's")
    table = Table("a", "b", *names, "a falls short by", "b falls short by", title="predicted, measured")
    for (a, b), pair in sorted(pairs.items(), key=lambda item: -item[1].shortfall):
        shortfalls = [str(pair.shortfalls[name].shortfall) for name in (a, b)]
        table.add_row(a, b, f"{pair.cosine:+.3f}", f"{pair.overlap:.3f}", f"{pair.larger[a]:.2f}", *shortfalls)
    return table


def _correlations_table(correlations: Mapping[str, Estimate]) -> Table:
    table = Table("prediction", "rank correlation with the shortfall [95 % over experts]")
    for name, estimate in correlations.items():
        table.add_row(name, str(estimate))
    return table


def _plain(
    pairs: Mapping[Pair, MeasuredPair], correlations: Mapping[str, Estimate], settings: Mapping[str, Any]
) -> dict[str, Any]:
    rows = [
        {"experts": names, **asdict(pair), "shortfall": pair.shortfall, "kept": _kept(pair)}
        for names, pair in pairs.items()
    ]
    return {
        "pairs": rows,
        "rank_correlation": {name: asdict(estimate) for name, estimate in correlations.items()},
        "settings": settings,
    }


def _kept(pair: MeasuredPair) -> dict[str, float | None]:
    return {name: one.kept for name, one in pair.shortfalls.items()}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=LearnerSpec().steps, help="of training, for each expert")
    parser.add_argument("--prompts", type=int, default=500, help="held-out prompts of each task; a few have fewer")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_STEPS} steps, {_QUICK_PROMPTS} prompts")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

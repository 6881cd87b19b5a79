"""What does a step of training cost, beside four experts trained apart and beside the reference implementation's way?

    python benchmarks/training.py                       tables, five minutes on one idle core
    python benchmarks/training.py --json > result.json
    python benchmarks/training.py --micro-batch-tokens 1280    both gradients in micro-batches of so many tokens
    python benchmarks/training.py --quick               few rounds: does it run at all

- ``cohort4_over_solo``: samples a second of four experts in one learner, over those of four learners one after
  another. A step samples 64 tokens for each (4 prompts of 16 tokens, answers of 16), grades them, and learns.
- ``step_over_reference``: seconds of one expert's gradient as the reference implementation computes it (W' composed,
  backward into dense dW' and through the composition; ``learning/reference.py``), over the learner's, on the same
  samples. Both gradients are compared first.
- ``peak_memory``: of both, each in a process of its own.

The embedded engine and the learner run in this process. Both sides of a ratio take turns; a ratio is of neighbours,
by the wall clock and, under ``cpu``, by the processor's, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table

from exit_code import exit_code
from learning.cohort import measure_cohort
from learning.memory import measure_memory
from learning.opened import open_base
from learning.step import SIZES, WAYS, measure_steps
from zfleet.config.learner import LARGEST_MICRO_BATCH

KL = 0.1
ROUNDS = {"cohort": 10, "cohort_kl": 6, 64: 16, 512: 10, 4096: 6}
"""Pairs of each ratio: six are the fewest that give an interval of 95 %."""

_QUICK = 2

_WIDTH = 140
"""Columns of tables that go into a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    rounds = dict.fromkeys(ROUNDS, _QUICK) if options.quick else ROUNDS
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("rounds", total=sum(rounds.values()))

        def tell() -> None:
            progress.advance(task)

        found = {
            "cohort4_over_solo": measure_cohort(open_base(options.base), 0.0, rounds["cohort"], tell),
            "cohort4_over_solo_kl": measure_cohort(open_base(options.base), KL, rounds["cohort_kl"], tell),
            "step_over_reference": measure_steps(
                options.base, options.micro_batch_tokens, {size: rounds[size] for size in SIZES}, tell
            ),
            "peak_memory": measure_memory(options.base, options.threads, options.micro_batch_tokens),
            "settings": vars(options),
        }
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
        console.print(Group(_cohorts(found), _steps(found)))


def _cohorts(found: dict[str, Any]) -> Table:
    table = Table("four experts", "over solo", "95% interval", "cpu", "s", "rollouts, s", "learning, s", "tokens")
    for key, title in (("cohort4_over_solo", "kl 0"), ("cohort4_over_solo_kl", f"kl {KL}")):
        row = found[key]
        for way in ("cohort", "solo"):
            parts = row[way]
            ratio = _ratio(row) if way == "cohort" else ("", "", "")
            seconds = (parts["seconds"]["wall"], parts["rollout_seconds"], parts["learn_seconds"])
            table.add_row(f"{way}, {title}", *ratio, *(f"{one:.2f}" for one in seconds), f"{parts['tokens']:.0f}")
    return table


def _steps(found: dict[str, Any]) -> Table:
    table = Table("tokens", "reference over ours", "95% interval", "cpu", *_both("cpu s"), *_both("step MiB"))
    for tokens, row in found["step_over_reference"].items():
        seconds = [f"{row['seconds'][way]['cpu']:.2f}" for way in WAYS]
        memory = [f"{found['peak_memory'][tokens][way]['step_mib']:.0f}" for way in WAYS]
        table.add_row(tokens, *_ratio(row), *seconds, *memory)
    return table


def _both(title: str) -> list[str]:
    return [f"{way}, {title}" for way in WAYS]


def _ratio(row: dict[str, Any]) -> tuple[str, str, str]:
    low, high = row["ci95"]
    return f"{row['median']:.2f}", f"{low:.2f} to {high:.2f}", f"{row['cpu']['median']:.2f}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="eighth", help="eighth (25 million parameters), lab, a folder or a hub id")
    parser.add_argument("--threads", type=int, default=1, help="of torch, as a job's worker has by default")
    parser.add_argument(
        "--micro-batch-tokens",
        type=int,
        default=LARGEST_MICRO_BATCH,
        help="of a gradient, both ways: what goes through the model at once; the product's default",
    )
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} rounds of each")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

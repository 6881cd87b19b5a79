"""How the engine and the learner do with a base of a real size: SmolLM2's dimensions, random weights.

    python benchmarks/real_model.py                               all parts
    python benchmarks/real_model.py --only learner_group          one or more of them
    python benchmarks/real_model.py --json > result.json
    python benchmarks/real_model.py --base FOLDER                 a base of your own

- ``choices``: prompts a second whose four labels are scored by one request, over those of which each label is scored
  alone, and over those to which eight tokens are generated.
- ``learner_group``: seconds of a gradient step of 8 samples of one prompt (400 tokens, answers of 8) with a row for
  each sample, over those with one row for all.
- ``chunked_logits``: memory and seconds of a gradient step whose log-probabilities and divergences are computed in
  chunks, over one that has all logits at once. ``chunked_logits_peak`` is that of the head's part alone.
- ``memory``: the memory that a worker is planned to need, over the most that one had which did a step of that size, on
  this base and on the lab base; a plan is good between 0.75 and 1.25.
- ``peaks``: the memory of the driver and of the worker of ``jobs/specs/arc-smollm2.yaml``, whatever ``--base`` says.

Both sides of a ratio take turns in one process; memory is that of processes which do nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.table import Table

from clean_streams import streams_kept_clean
from exit_code import exit_code
from real.engine import choices, engine, group_prefill
from real.learner import chunked_logits, learner_group
from real.memory import memory
from real.peaks import peaks
from real.settings import Part, Settings

PARTS: dict[str, Part] = {
    "engine": engine,
    "group_prefill": group_prefill,
    "choices": choices,
    "learner_group": learner_group,
    "chunked_logits": chunked_logits,
    "memory": memory,
    "peaks": peaks,
}

_QUICK = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    with streams_kept_clean() as (out, err):
        _measure(options, out, Console(file=err))


def _measure(options: argparse.Namespace, out: TextIO, console: Console) -> None:
    torch.set_num_threads(options.threads)
    rounds = _QUICK if options.quick else options.rounds
    settings = Settings(options.base, options.threads, rounds, console.print, options.arc)
    figures: dict[str, Any] = {}
    for name in options.only:
        figures |= PARTS[name](settings)
    if options.json:
        out.write(json.dumps({"settings": vars(options), "figures": figures}, indent=2, default=str) + "\n")
        return
    table = Table("figure", "median", "95% interval", "what")
    for name, figure in figures.items():
        low, high = figure.get("ci95", (figure["median"],) * 2)
        table.add_row(name, f"{figure['median']:.3f}", f"{low:.3f} to {high:.3f}", figure["ratio"])
    Console(file=out).print(table)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--base", default="smollm2", help="a shape (smollm2, eighth), a folder or a hub id")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--rounds", type=int, default=6, help="pairs of each ratio")
    parser.add_argument("--arc", type=Path, metavar="FOLDER", help="ARC's files, for peaks; without it from the hub")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} rounds of each")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

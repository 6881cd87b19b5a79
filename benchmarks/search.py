"""How fast the search tries mixtures, what Ray Tune costs it, and what it finds.

    python benchmarks/search.py                         all parts, about half an hour on two cores
    python benchmarks/search.py --only rate             one or more of them
    python benchmarks/search.py --json > result.json

- ``rate``: candidates a second, a population in one engine batch over weights that are rebuilt for each candidate (the
  reference implementation's way), on a base of 25 million parameters with ten shots of 5 and of 20 tokens. The bound is
  what multiplications alone allow. ``--forms exact delta`` adds vLLM.
- ``tune``: the part of a search's time that Ray Tune takes.
- ``planted``: three experts among 64, found by what they answer.
- ``racing``: racing with fresh finals against the full search, on the lab base's own experts.

Both sides of a ratio take turns in one process.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.table import Table

from clean_streams import streams_kept_clean
from exit_code import exit_code
from searching.planted import planted
from searching.racing import racing
from searching.rate import rate
from searching.settings import Part, Settings
from searching.tune import tune

PARTS: dict[str, Part] = {"rate": rate, "tune": tune, "planted": planted, "racing": racing}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    with streams_kept_clean() as (out, err):
        _measure(options, out, Console(file=err))


def _measure(options: argparse.Namespace, out: TextIO, console: Console) -> None:
    torch.set_num_threads(options.threads)
    settings = Settings(options.rounds, options.seeds, options.threads, tuple(options.forms), console.print)
    figures: dict[str, Any] = {}
    for name in options.only:
        figures |= PARTS[name](settings)
    if options.json:
        out.write(json.dumps({"settings": vars(options), "figures": figures}, indent=2, default=str) + "\n")
        return
    table = Table("figure", "median", "95% interval", "bar", "what")
    for name, figure in figures.items():
        low, high = figure.get("ci95", (None, None))
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        what = figure["ratio"] + (f"; bound {figure['bound']:.2f}" if "bound" in figure else "")
        table.add_row(name, f"{figure['median']:.3f}", interval, str(figure.get("bar") or ""), what)
    Console(file=out).print(table)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--forms", nargs="+", choices=("torch", "exact", "delta"), default=["torch"])
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--rounds", type=int, default=6, help="pairs of each ratio")
    parser.add_argument("--seeds", type=int, default=20, help="searches of `planted`; `racing` has four times as many")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

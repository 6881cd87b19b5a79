"""How good is the cross-entropy method as a sampler for Optuna, beside Optuna's own samplers?

    python benchmarks/cem_sampler.py                       tables; the first time mixtures are recorded
    python benchmarks/cem_sampler.py --json > result.json
    python benchmarks/cem_sampler.py --surfaces sphere rosenbrock --samplers cem cmaes random --seeds 6

All get 256 evaluations, in batches of 32, as an engine answers a population at once. What they have after 96 is shown
too. The Gaussian process takes nearly all of the time, half a minute a search; leave it out with ``--samplers``.

- ``sphere`` (the optimum at random) and ``rosenbrock``: the loss of the best point.
- ``shots`` and ``shots and ties``: mixtures of three experts of the lab base, trained and recorded here, scored on 10
  of 200 prompts. Reported is the accuracy of the chosen mixture on the other 190, and the optimism: what it scored on
  the shots minus that.

A seed is the optimum or the draw of shots, the same for all samplers, and the sampler's own seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rich.console import Console
from rich.progress import track

from exit_code import exit_code
from samplers.recording import recorded_table
from samplers.search import Outcome, prepare, search
from samplers.sides import SIDES
from samplers.summary import known_mixtures, summarise, table
from samplers.surfaces import SURFACES

_WIDTH = 80
"""Columns of tables that go into a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    prepare()
    recorded = recorded_table() if any("shots" in surface for surface in options.surfaces) else None
    outcomes = _outcomes(options)
    found: dict[str, Any] = {surface: summarise(outcomes[surface]) for surface in options.surfaces}
    known = None if recorded is None else known_mixtures(recorded)
    if options.json:
        print(json.dumps({**found, "known_mixtures": known, "settings": vars(options)}, indent=2))
        return
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(*(table(surface, found[surface]) for surface in options.surfaces))
    if known is not None:
        shown = ", ".join(f"{name} {100 * accuracy:.1f}" for name, accuracy in known.items())
        console.print(f"mixtures, % of all prompts: {shown}")


def _outcomes(options: argparse.Namespace) -> dict[str, dict[str, list[Outcome]]]:
    cases = list(itertools.product(options.surfaces, options.samplers, range(options.seeds)))
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn"), prepare) as pool:
        futures = [pool.submit(search, *case) for case in cases]
        found = [future.result() for future in track(futures, "searches", console=Console(stderr=True))]
    grouped: dict[str, dict[str, list[Outcome]]] = {surface: {} for surface in options.surfaces}
    for (surface, sampler, _), outcome in zip(cases, found, strict=True):
        grouped[surface].setdefault(sampler, []).append(outcome)
    return grouped


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--surfaces", nargs="+", choices=SURFACES, default=list(SURFACES))
    parser.add_argument("--samplers", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="searches at once; results are the same")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

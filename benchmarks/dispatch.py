"""How good are dispatchers, and do they know when they do not know? Measured on the lab base.

    python benchmarks/dispatch.py                       tables, some minutes on one idle core
    python benchmarks/dispatch.py --json > result.json
    python benchmarks/dispatch.py --quick               few steps of training: does it run at all

The lab's experts and its classifier are trained, and each kind of dispatcher is calibrated by `zfleet calibrate` on
prompts of four kinds. What is printed is of held-out prompts, and of kinds that nobody has seen:

- ``dispatchers``: accuracy of labels, expected calibration error, coverage, risk and tokens of the first pass; how many
  answers are right, less those of the base (paired interval), and less than an oracle's that knows the kind (regret).
  On unseen kinds: the same beside the base.
- ``new_labels``: a label added to `nearest` from twenty prompts: seconds, recall, and what the old labels lose.
- ``drift``, of each dispatcher: false alarms in streams of 5,000 usual requests; how soon 20 % unseen prompts are told.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console, Group
from rich.table import Table

from dispatching.measure import DISPATCHERS, measure_dispatchers, measure_new_labels
from dispatching.project import project
from exit_code import exit_code

_STEPS, _QUICK = 100, 5
_WIDTH = 160
"""Columns of tables that go into a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    log = Console(stderr=True)
    with project(_QUICK if options.quick else _STEPS, log.print) as made:
        log.print("calibrating and measuring dispatchers")
        found = {"dispatchers": measure_dispatchers(made)}
        log.print("adding labels")
        found["new_labels"] = measure_new_labels(made)
    found["settings"] = vars(options)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
        console.print(Group(_seen(found), _unseen(found), _drift(found), _new_labels(found)))


def _seen(found: dict[str, Any]) -> Table:
    rows = found["dispatchers"]
    table = Table(
        "seen kinds", "labels", "ECE", "threshold", "coverage", "risk", "tokens", "right", "less base", "regret"
    )
    for kind in DISPATCHERS:
        row = rows[kind]["seen"]
        thresholds = ", ".join("never" if one is None else f"{one:.3f}" for one in row["thresholds"])
        numbers = [f"{row['accuracy']:.3f}", f"{row['ece']:.3f}", thresholds, f"{row['coverage']:.3f}"]
        risk = "-" if row["risk"] is None else f"{row['risk']:.3f}"
        right = [f"{row['answered_right']:.3f}", _interval(row["less_base"]), _interval(row["regret"])]
        table.add_row(kind, *numbers, risk, f"{row['tokens']:.1f}", *right)
    table.add_row("oracle", *[""] * 6, f"{rows['oracle']:.3f}", _interval(rows["oracle_less_base"]), "")
    table.add_row("base", *[""] * 6, f"{rows['base']:.3f}", "", "")
    return table


def _unseen(found: dict[str, Any]) -> Table:
    table = Table("unseen kinds", "kind", "n", "routed to experts", "right", "base", "less base")
    for dispatcher in DISPATCHERS:
        for name, row in found["dispatchers"][dispatcher]["unseen"].items():
            shares = (row["routed"], row["answered_right"], row["base"])
            cells = [f"{share:.3f}" for share in shares]
            table.add_row(dispatcher, name, str(row["n"]), *cells, _interval(row["less_base"]))
    return table


def _drift(found: dict[str, Any]) -> Table:
    table = Table("drift", "strange: usual", "at most", "unseen", "false alarms", "told", "after requests")
    for dispatcher in DISPATCHERS:
        row = found["dispatchers"][dispatcher]["drift"]
        shares = [f"{row[key]:.3f}" for key in ("usual", "usual_at_most", "unseen")]
        counts = [f"{row[key]} of {row['streams']}" for key in ("false_alarms", "told")]
        table.add_row(dispatcher, *shares, *counts, str(row["requests_until_told"]))
    return table


def _new_labels(found: dict[str, Any]) -> Table:
    table = Table("new label", "seconds", "recall", "recognised before", "what the old ones lose")
    for name, row in found["new_labels"].items():
        cells = [f"{row[key]:.2f}" for key in ("seconds", "recall", "recognised_before")]
        table.add_row(name, *cells, _interval(row["old_loss"]))
    return table


def _interval(row: dict[str, float]) -> str:
    return f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} steps of training")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

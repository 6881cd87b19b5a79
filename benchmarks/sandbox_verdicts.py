"""How many verdicts on programs does the sandbox give a second, and what do boxes that wait ready bring?

    python benchmarks/sandbox_verdicts.py                                     small programs, a minute on two cores
    python benchmarks/sandbox_verdicts.py --problems sanitized-mbpp.json      reference solutions of MBPP
    python benchmarks/sandbox_verdicts.py --json > result.json
    python benchmarks/sandbox_verdicts.py --against CHECKOUT                  beside the sandbox of another checkout

The same programs in turns: with one pair of boxes that waits ready, with as many as there are cores, which is the
default, with twice as many, and in no box at all (`unsafe`): what isolation costs. Ratios are of neighbours. With
`--against`, the default of this checkout and of another one take turns instead, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from exit_code import exit_code
from hetero.statistics import Estimate, estimate
from zfleet.errors import TaskError
from zfleet.rewards.sandbox.exam import Exam
from zfleet.rewards.sandbox.sandbox import AT_ONCE, Isolation, Sandbox
from zfleet.tasks.datasets.load import problems_of

BAR = 20.0
"""Verdicts a second, on two cores."""

_SLOW = ("123", "640")
"""MBPP's reference solutions of these take as long as a verdict may."""

_SIDES: dict[str, tuple[Isolation, int]] = {
    "default": ("bubblewrap", AT_ONCE),
    "one ready": ("bubblewrap", 1),
    "twice as many": ("bubblewrap", 2 * AT_ONCE),
    "no box": ("unsafe", AT_ONCE),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    exams = _exams(options.problems)[: options.most]
    if options.once:
        print(_rate(exams, *_SIDES["default"]))
        return
    sides: dict[str, Callable[[], float]]
    if options.against:
        places = {"here": Path(__file__).parents[1], "there": options.against}
        sides = {side: partial(_rate_of, place, options) for side, place in places.items()}
    else:
        sides = {side: partial(_rate, exams, *boxes) for side, boxes in _SIDES.items()}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for number in track(range(options.rounds), "rounds", console=Console(stderr=True)):
        for side in list(sides) if number % 2 else reversed(sides):
            rates[side].append(sides[side]())
    found = {side: estimate(values) for side, values in rates.items()}
    first, *others = sides
    ratios = {
        f"{first} over {side}": estimate([a / b for a, b in zip(rates[first], rates[side], strict=True)])
        for side in others
    }
    if options.json:
        shown = {name: vars(value) for name, value in (found | ratios).items()}
        print(json.dumps({"programs": len(exams), "cores": os.cpu_count(), **shown}, indent=2))
        return
    table = Table("boxes", "median", "95% interval", title=f"{len(exams)} programs, verdicts a second")
    for name, value in (found | ratios).items():
        table.add_row(name, *_cells(value, 2 if name in ratios else 1))
    Console().print(table, f"asked for is {BAR:g}: {'reached' if found[first].reaches(BAR) else 'MISSED'}")


def _cells(value: Estimate, digits: int) -> tuple[str, str]:
    return f"{value.median:.{digits}f}", f"{value.low:.{digits}f} to {value.high:.{digits}f}"


def _rate(exams: Sequence[Exam], isolation: Isolation, ready: int) -> float:
    """Verdicts a second, as many at once as there are cores."""
    with Sandbox(isolation=isolation, ready=ready) as sandbox, ThreadPoolExecutor(AT_ONCE) as threads:
        began = time.perf_counter()
        verdicts = list(threads.map(sandbox.examine, exams))
        seconds = time.perf_counter() - began
    wrong = [verdict.reason for verdict in verdicts if not verdict.passed]
    if wrong:
        raise TaskError(f"{len(wrong)} of {len(exams)} right programs failed: {wrong[0]}", "see what they need")
    return len(exams) / seconds


def _rate_of(checkout: Path, options: argparse.Namespace) -> float:
    """As ``_rate`` with the default, by the code of a checkout."""
    same = ["--problems", str(options.problems)] if options.problems else []
    same += ["--most", str(options.most)] if options.most else []
    done = subprocess.run(
        [sys.executable, __file__, "--once", *same],
        env=os.environ | {"PYTHONPATH": str(checkout.resolve() / "platform")},
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(done.stdout)


def _exams(problems: Path | None) -> list[Exam]:
    if problems is None:
        return [
            Exam(
                f"def add(x):\n    return x + {n}",
                ("add",),
                (f"assert add(1) == {n + 1}", f"assert add(-1) == {n - 1}"),
            )
            for n in range(100)
        ]
    found = []
    for task, sample in problems_of("mbpp_sanitized", problems).items():
        if task not in _SLOW:
            exam = json.loads(sample.fields["exam"])
            found.append(Exam(sample.fields["solution"], tuple(exam["names"]), tuple(exam["tests"]), exam["setup"]))
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, metavar="FILE", help="sanitized-mbpp.json")
    parser.add_argument("--most", type=int, default=None, help="programs of it")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="another checkout of zfleet, an older one for example"
    )
    parser.add_argument("--once", action="store_true", help="one round of the default, and its rate alone")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

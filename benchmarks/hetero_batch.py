"""Does a batch of many experts cost more than a batch of one? zfleet's vLLM engine against vLLM and its LoRA.

    python benchmarks/hetero_batch.py                      tables, about 40 minutes on two cores
    python benchmarks/hetero_batch.py --quick              two rounds: does it run at all
    python benchmarks/hetero_batch.py --only base,rank64   a part of it
    python benchmarks/hetero_batch.py --json > result.json
    python benchmarks/hetero_batch.py --plot result.png --also compiled,peft,merge
    python benchmarks/hetero_batch.py --base FOLDER --experts a.safetensors b.safetensors

One run, one base, one load: every engine is opened once, and in each round every configuration has its turn, so that
all see the same machine. Nothing else should run on it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console

from clean_streams import streams_kept_clean
from exit_code import exit_code
from hetero.processes import prepare_environment

ROUNDS = 12
"""Twelve pairs give an exact interval of 96 % for the median."""

_WIDTH = 140
"""Columns of tables that go into a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    # Before anything imports torch or vLLM, which read the environment once.
    prepare_environment(options.threads, options.profile)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    with streams_kept_clean() as (out, err):
        asyncio.run(_measure(options, out, err))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="eighth", help="of the base: eighth, or llama3-8b (needs a GPU)")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="a Llama that experts were trained on, not --shape")
    parser.add_argument("--experts", type=Path, nargs="+", default=[], metavar="FILE", help="z files; mixtures fill up")
    parser.add_argument("--rounds", type=_positive, default=ROUNDS, help="samples of each configuration")
    parser.add_argument("--quick", action="store_true", help="two rounds, whatever --rounds says")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--also", default="", metavar="WHAT,...", help="what to add, of compiled, peft and merge")
    parts.add_argument("--only", default="", metavar="KEY,...", help="these configurations (keys of the JSON) alone")
    parser.add_argument("--threads", type=_positive, default=os.cpu_count(), help="of each engine")
    parser.add_argument("--concurrency", type=_positive, default=64, help="requests under way at any time")
    parser.add_argument("--requests", type=_positive, default=128, help="of one sample; slow ones get half")
    parser.add_argument("--prompt-tokens", type=_positive, default=64)
    parser.add_argument("--answer-tokens", type=_positive, default=64)
    parser.add_argument("--profile", action="store_true", help="also say where a decoding step's time goes")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


async def _measure(options: argparse.Namespace, out: TextIO, err: TextIO) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hetero.agreement import agreement
    from hetero.base import build_base, find_shape, shape_of
    from hetero.client import Load
    from hetero.configurations import chosen
    from hetero.measure import measure, steps
    from hetero.profile import PROFILED
    from hetero.report import report, show
    from hetero.settings import Settings
    from zfleet.svf.zvector import ZVector

    shape = shape_of(options.base) if options.base else find_shape(options.shape)
    experts = tuple(ZVector.load(path) for path in options.experts)
    keys = chosen(options.also.split(",") if options.also else (), options.only.split(",") if options.only else ())
    rounds = 2 if options.quick else options.rounds
    profiled = PROFILED if options.profile else ()
    load = Load(options.concurrency, options.prompt_tokens, options.answer_tokens, shape.vocabulary)
    console = _console(err)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="zfleet-bench-") as scratch,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task("building the base", total=steps(keys, rounds, profiled))
        folder = options.base or build_base(shape)
        settings = Settings(shape, folder, Path(scratch), load, options.requests, experts)

        def tell(what: str) -> None:
            progress.update(task, description=what, advance=1)

        measured = await measure(settings, keys, rounds=rounds, profiled=profiled, tell=tell)
        agreed = await agreement(settings) if experts else {}
    shown = report(settings, measured, rounds=rounds, threads=options.threads) | {"agreement": agreed}
    if options.json:
        json.dump(shown, out, indent=2)
        out.write("\n")
    show(console if options.json else _console(out), shown)
    if options.plot:
        from hetero.plot import picture

        options.plot.write_bytes(picture(shown))
        console.print(f"picture: {options.plot}")


def _console(file: TextIO) -> Console:
    return Console(file=file) if file.isatty() else Console(file=file, width=_WIDTH)


if __name__ == "__main__":
    sys.exit(main())

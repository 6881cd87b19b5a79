"""``zfleet evaluate``: measure every way of adapting on every task, and compare ways prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.load import load_spec
from zfleet.errors import SpecError
from zfleet_cli.dry_run import check_job
from zfleet_cli.options import Address, AsJson, DryRun, Overrides
from zfleet_cli.output import results_alone
from zfleet_cli.tables import print_table
from zfleet_cli.untrusted import shown

if TYPE_CHECKING:
    from zfleet.evaluate.matrix import Comparison, Entry
    from zfleet.evaluate.statistics.estimate import Estimate
    from zfleet.tasks.task import Task
    from zfleet_jobs.evaluate.flips import Changes, FlippedPrompt
    from zfleet_jobs.evaluate.results import Results

_SHOWN = 10
"""How many flipped prompts of a task a table shows; --json has them all."""


def evaluate(
    spec: Annotated[
        Path | None,
        typer.Argument(
            help="A spec file, or with --compare the folder of a run; jobs/specs has examples.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    address: Address = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Show which prompts flipped between two ways of a finished run, or without SPEC between two runs' "
            "folders.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Measure the base, experts, mixtures, searches and dispatchers on the same prompts, and say which to trust."""
    if compare is not None:
        _compare(spec, compare, overrides or (), as_json)
        return
    if spec is None:
        raise SpecError("neither a spec file nor --compare A B is given", "give one of them")
    job = load_spec(spec, EvaluateSpec, overrides or ())
    if not check_job(job, list(job.tasks.values()), dry_run, as_json, sizes=lambda tasks: _sizes(job, tasks)):
        return
    from zfleet_jobs.evaluate.run import run_evaluate

    with results_alone():
        evaluated = run_evaluate(job, address)
    if as_json:
        typer.echo(json.dumps(_plain(evaluated.results, evaluated.run_id), indent=2))
        return
    _print(evaluated.results)
    typer.echo(f"answers: {evaluated.results.run.place}")
    typer.echo(f"report: {evaluated.results.run.place}/report.html, and in run {evaluated.run_id} of MLflow")


def _sizes(job: EvaluateSpec, tasks: Sequence[Task]) -> dict[str, int]:
    """Check the splits of an evaluation, and count its cells and answers."""
    from zfleet.evaluate.splits import check_disjoint, split
    from zfleet.evaluate.ways import sizes_of

    splits = {
        name: split(task, job.selection_samples, job.eval_samples) for name, task in zip(job.tasks, tasks, strict=True)
    }
    check_disjoint(splits, max(job.shots), job.draws)
    return sizes_of(job, {name: len(parts.test) for name, parts in splits.items()})


def _compare(spec: Path | None, sides: tuple[str, str], overrides: Sequence[str], as_json: bool) -> None:
    from zfleet_jobs.evaluate.flips import compare_runs, compare_ways
    from zfleet_jobs.evaluate.results import read_results
    from zfleet_jobs.run_folder.storage import Storage

    if spec is None:
        changes = compare_runs(*(read_results(Storage.at(folder)) for folder in sides))
    else:
        if spec.is_dir():
            run = Storage.at(str(spec))
        else:
            from zfleet_jobs.evaluate.run import run_folder

            run = run_folder(load_spec(spec, EvaluateSpec, overrides))
        changes = compare_ways(read_results(run), *sides)
    if as_json:
        # Only ASCII is printed as it is: a completion may contain characters that a terminal would execute.
        typer.echo(json.dumps([asdict(one) for one in changes], indent=2))
        return
    for one in changes:
        _print_changes(one)


def _plain(results: Results, run_id: str) -> dict[str, Any]:
    entries = [asdict(entry) for entry in results.matrix.entries]
    return {"run": results.run.place, "mlflow_run": run_id, "about": asdict(results.about), "entries": entries}


def _print(results: Results) -> None:
    """Print two tables for each task, narrow enough for 80 columns: what each way is worth, and what it costs."""
    console = Console()
    matrix = results.matrix
    for task in matrix.tasks:
        entries = matrix.of_task(task)
        least = matrix.detectable(task)
        could = "" if least is None else f"; differences of {100 * least:.1f} points could be shown"
        worth = [
            [_way(one), _percent(one.accuracy), *map(_difference, (one.over_base, one.over_named))] for one in entries
        ]
        names = ("way", "right, %", "- base", f"- {matrix.against}")
        print_table(console, f"{task}: {entries[0].n} prompts{could}", names, [list(map(Text, row)) for row in worth])
        costs = ("way", "regret", "off task", "read", "generated", "ms", "first pass")
        print_table(console, f"{task}: costs of an answer", costs, [list(map(Text, _costs(one))) for one in entries])
    comparisons = sum(entry.over_base is not None for entry in matrix.entries)
    console.print(
        f"95 % intervals. *: shown at 5 %, after the correction for {comparisons} comparisons (Holm).",
        markup=False,
        highlight=False,
    )


def _costs(entry: Entry) -> list[str]:
    """Write what an oracle has more, what an expert does on other tasks, and tokens and milliseconds of an answer."""
    lost = ["" if one is None else f"{100 * one.mean:+.1f}" for one in (entry.regret, entry.off_task)]
    if entry.cost is None:
        return [_way(entry), *lost, "", "", "", ""]
    cost = entry.cost
    first = f"{cost.first_share:.0%}" if cost.first_share else ""
    return [_way(entry), *lost, f"{cost.prompt_tokens:.1f}", f"{cost.tokens:.1f}", f"{1000 * cost.seconds:.1f}", first]


def _way(entry: Entry) -> str:
    return entry.way if entry.shots is None else f"{entry.way} ({entry.shots})"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.1f}{_bounds(estimate)}"


def _difference(compared: Comparison | None) -> str:
    """Write a difference in points; a star marks one that is shown."""
    if compared is None:
        return ""
    star = "" if compared.verdict == "not shown" else "*"
    return f"{100 * compared.difference.mean:+.1f}{_bounds(compared.difference)}{star}"


def _bounds(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" [{100 * estimate.low:.0f},{100 * estimate.high:.0f}]"


def _print_changes(changes: Changes) -> None:
    console = Console(highlight=False)
    compared = changes.comparison
    line = (
        f"{changes.task}: {changes.first} less {changes.second}: {_difference(compared)} points on {compared.n} "
        f"prompts, p {compared.p:.3g}; {changes.gained} gained, {changes.lost} lost"
    )
    console.print(line, markup=False, soft_wrap=True)
    if not changes.flipped:
        return
    names = ("prompt", changes.first, changes.second)
    rows = [_row(one) for one in changes.flipped[:_SHOWN]]
    more = len(changes.flipped) - len(rows)
    title = f"flipped{f', {len(rows)} of {len(changes.flipped)}; --json has all' if more else ''}"
    print_table(console, title, names, rows, lines=True)


def _row(one: FlippedPrompt) -> list[Text]:
    return [shown(one.prompt), _side(one.first, one.first_answer), _side(one.second, one.second_answer)]


def _side(share: float, answer: str | None) -> Text:
    mark = {0.0: "wrong", 1.0: "right"}.get(share, f"right in {share:.0%}")
    return Text(f"{mark}: ") + (Text("-") if answer is None else shown(answer))

"""``zfleet grade``: completions in a file, graded as a task grades them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from zfleet.config.datasets import DatasetName
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import SpecError
from zfleet_cli.options import AsJson
from zfleet_cli.untrusted import shown

if TYPE_CHECKING:
    from rich.console import Console

_MOST_SHOWN = 20


def grade(
    task: Annotated[str, typer.Option(help="A public dataset, whose grader rates rows that name no kind.")],
    file: Annotated[Path, typer.Option(help="Completions, one JSON object a line.")],
    problems: Annotated[
        Path | None, typer.Option(help="MBPP or HumanEval problems: the tests of programs.", show_default=False)
    ] = None,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Run programs as you, in no sandbox.")] = False,
    as_json: AsJson = False,
) -> None:
    """Grade completions, and say where verdicts differ from those that the file expects.

    Ends with 1 where grading a row failed; one of which the grader cannot tell is counted, and is no failure.
    """
    # Graders bring libraries along that `zfleet --help` does not need.
    from zfleet.rewards.build import build_reward
    from zfleet.rewards.grading import check_reward
    from zfleet.rewards.offline import OfflineGrader, summary
    from zfleet.tasks.datasets.load import problems_of
    from zfleet.tasks.rows import read_rows

    if task not in get_args(DatasetName):
        raise SpecError(f"--task is {task!r}", f"choose one of: {', '.join(get_args(DatasetName))}")
    spec = TaskSpec.model_validate({"dataset": task}).reward
    if unsafe and spec.kind == "program":
        spec = spec.model_copy(update={"sandbox": "unsafe"})
    reward = build_reward(spec)
    known = problems_of(task, problems) if problems else {}
    if known:
        check_reward(reward)
    found = summary(OfflineGrader(reward, known).grade(read_rows(file)))
    if as_json:
        # All but ASCII is escaped: a completion may hold what a terminal obeys.
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(found, task)
    if found["failed"]:
        raise typer.Exit(1)


def _show(found: dict[str, object], task: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(f"{task}: {found['n']} rows, {found['right']} right")
    assert isinstance(found["ungraded"], list)
    if found["ungraded"]:
        console.print(f"without a grade: {found['cannot_tell']} that nobody can judge, {found['failed']} that failed")
        _print_rows(console, "without a grade", ("id", "verdict", "reason"), found["ungraded"])
    if found["agreement"] is None:
        return
    assert isinstance(found["agreement"], float)
    assert isinstance(found["policies"], dict)
    assert isinstance(found["disagreements"], list)
    console.print(f"agreement {100 * found['agreement']:.2f} %, {found['contested']} contested rows left out")
    for policy, own in found["policies"].items():
        console.print(Text("  ") + shown(policy) + f": {100 * own['agreement']:.2f} % of {own['n']}")
    if found["disagreements"]:
        columns = ("id", "expected", "verdict", "extracted", "reason")
        _print_rows(console, "disagreements", columns, found["disagreements"])


def _print_rows(console: Console, title: str, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    from zfleet_cli.tables import print_table

    print_table(console, title, columns, [[shown(str(row[name])) for name in columns] for row in rows[:_MOST_SHOWN]])
    if len(rows) > _MOST_SHOWN:
        console.print(f"{len(rows) - _MOST_SHOWN} more: --json lists them all")

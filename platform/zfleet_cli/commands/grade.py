"""``zfleet grade``: grade the completions in a file with a task's reward."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from zfleet.config.datasets import DatasetName
from zfleet.config.generated import GeneratedName
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import SpecError
from zfleet_cli.options import AsJson
from zfleet_cli.untrusted import shown

if TYPE_CHECKING:
    from rich.console import Console

_MOST_SHOWN = 20


def grade(
    task: Annotated[
        str, typer.Option(help="A public dataset or a generated task: its grader is used for rows without a kind.")
    ],
    file: Annotated[Path, typer.Option(help="The completions, one JSON object in each line.")],
    problems: Annotated[
        Path | None, typer.Option(help="The file of MBPP or HumanEval problems, with the tests.", show_default=False)
    ] = None,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Run programs as you, without a sandbox.")] = False,
    as_json: AsJson = False,
) -> None:
    """Grade completions, and list the verdicts that differ from those that the file expects.

    The exit code is 1 if grading a row failed. A row that the grader cannot judge is counted, but is not a failure.
    """
    # Imported late: `zfleet --help` does not need the graders' libraries.
    from zfleet.rewards.build import build_reward
    from zfleet.rewards.grading import check_reward
    from zfleet.rewards.offline import OfflineGrader, summary
    from zfleet.tasks.datasets.load import problems_of
    from zfleet.tasks.generated.load import generated_reward
    from zfleet.tasks.rows import read_rows

    if task in get_args(GeneratedName):
        reward = generated_reward(cast(GeneratedName, task))
    elif task in get_args(DatasetName):
        spec = TaskSpec.model_validate({"dataset": task}).reward
        if unsafe and spec.kind == "program":
            spec = spec.model_copy(update={"sandbox": "unsafe"})
        reward = build_reward(spec)
    else:
        names = ", ".join(get_args(DatasetName) + get_args(GeneratedName))
        raise SpecError(f"--task is {task!r}", f"choose one of: {names}")
    samples = problems_of(task, problems) if problems else {}
    if samples:
        check_reward(reward)
    result = summary(OfflineGrader(reward, samples).grade(read_rows(file)))
    if as_json:
        # Only ASCII is printed as it is: a completion may contain characters that a terminal would execute.
        typer.echo(json.dumps(result, indent=2))
    else:
        _show(result, task)
    if result["failed"]:
        raise typer.Exit(1)


def _show(result: dict[str, object], task: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(f"{task}: {result['n']} rows, {result['right']} right")
    assert isinstance(result["ungraded"], list)
    if result["ungraded"]:
        console.print(f"without a grade: {result['cannot_tell']} that nobody can judge, {result['failed']} that failed")
        _print_rows(console, "without a grade", ("id", "verdict", "reason"), result["ungraded"])
    if result["agreement"] is None:
        return
    assert isinstance(result["agreement"], float)
    assert isinstance(result["policies"], dict)
    assert isinstance(result["disagreements"], list)
    console.print(f"agreement {100 * result['agreement']:.2f} %, without {result['contested']} contested rows")
    for policy, own in result["policies"].items():
        console.print(Text("  ") + shown(policy) + f": {100 * own['agreement']:.2f} % of {own['n']}")
    if result["disagreements"]:
        columns = ("id", "expected", "verdict", "extracted", "reason")
        _print_rows(console, "disagreements", columns, result["disagreements"])


def _print_rows(console: Console, title: str, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    from zfleet_cli.tables import print_table

    print_table(console, title, columns, [[shown(str(row[name])) for name in columns] for row in rows[:_MOST_SHOWN]])
    if len(rows) > _MOST_SHOWN:
        console.print(f"{len(rows) - _MOST_SHOWN} more: --json lists them all")

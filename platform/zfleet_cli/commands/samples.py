"""``zfleet samples``: show the best, the worst and the most changed completions of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from zfleet.paths import TRAIN_FOLDER
from zfleet_cli.options import AsJson
from zfleet_cli.tables import print_table
from zfleet_cli.untrusted import shown

if TYPE_CHECKING:
    from zfleet_jobs.samples.layout import Training
    from zfleet_jobs.samples.look import Look, SampleQuery


def samples(
    run: Annotated[str, typer.Argument(help="A run's name, or a folder of one of its trainings.", show_default=False)],
    expert: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this expert's samples.", show_default=False)
    ] = None,
    storage: Annotated[
        str, typer.Option(metavar="DIR", help="The run's folder or URI: `storage` of its spec.")
    ] = TRAIN_FOLDER,
    step: Annotated[int | None, typer.Option(metavar="N", help="Only this step.", show_default=False)] = None,
    last: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Only the last K steps.", show_default=False)
    ] = None,
    best: Annotated[int, typer.Option(metavar="N", min=0, help="How many of the best to show.")] = 5,
    worst: Annotated[int, typer.Option(metavar="N", min=0, help="How many of the worst to show.")] = 5,
    changed: Annotated[int, typer.Option(metavar="N", min=0, help="How many of the most changed to show.")] = 5,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Prove that every sample was answered under the z that the learner published."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the best, the worst and the most changed completions of a run, finished or still running.

    Texts are shortened, and characters that do not print are escaped. --json prints the whole texts.
    """
    if verify:
        raise typer.Exit(_verify(run, storage, expert, as_json))
    from zfleet_jobs.samples.look import SampleQuery, look_at

    query = SampleQuery(expert, step, last, best, worst, changed)
    look = look_at(run, storage, query)
    if as_json:
        # Only ASCII is printed as it is: a completion may contain characters that a terminal would execute.
        typer.echo(json.dumps(_plain(look), indent=2))
        return
    _show(look, query)


def _verify(run: str, storage: str, expert: str | None, as_json: bool) -> int:
    """Print what the samples prove; 1 if something does not fit."""
    from zfleet_jobs.samples.verify import verify_samples

    verified = verify_samples(run, storage, expert)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in verified], indent=2))
    else:
        console = Console(highlight=False)
        label = _labels([one.training for one in verified])
        rows = [
            [
                shown(label(one.training.expert, one.training.digest)),
                *map(Text, (f"{one.steps:,}", f"{one.samples:,}", one.reached[:12])),
                Text(f"{len(one.faults)} faults" if one.faults else "proven"),
            ]
            for one in verified
        ]
        title = "every sample was answered under the z that the learner published"
        print_table(console, title, ("expert", "steps", "samples", "last z", "verdict"), rows)
        for one in verified:
            for fault in one.faults[:_FAULTS]:
                console.print(shown(f"{label(one.training.expert, one.training.digest)}: {fault}", most=1000))
            if len(one.faults) > _FAULTS:
                console.print(f"and {len(one.faults) - _FAULTS} more; --json has them all")
    return int(any(one.faults for one in verified))


_FAULTS = 10
"""Of each training, so many are printed."""


def _plain(look: Look) -> dict[str, object]:
    return {
        "run": look.run,
        "trainings": [
            {"expert": training.expert, "digest": training.digest}
            | {key: value for key, value in asdict(spread).items() if key != "training"}
            for training, spread in look.trainings
        ],
        "best": look.best,
        "worst": look.worst,
        "changed": [
            {"expert": early["expert"], "digest": early["digest"], "sample": early["sample"], "prompt": early["prompt"]}
            | {"early_reward": change.early, "late_reward": change.late, "early": early, "late": late}
            for change, early, late in look.changed
        ],
    }


def _show(look: Look, query: SampleQuery) -> None:
    console = Console(highlight=False)
    label = _labels([training for training, _ in look.trainings])
    for training, spread in look.trainings:
        several = f"{spread.steps} steps, {spread.first} to {spread.last}"
        steps = several if spread.steps > 1 else f"step {spread.first}"
        ungraded = f" and {spread.ungraded:,} without a grade" if spread.ungraded else ""
        line = f"{look.run}, {label(training.expert, training.digest)}: {steps}; {spread.samples:,} samples{ungraded}"
        rewards = f"mean reward {spread.mean:+.3f}"
        if spread.least == spread.most:
            rewards = f"every reward is {spread.most:+g}, so that there is no best or worst to choose"
        console.print(shown(f"{line}; {rewards}", most=1000))
    for title, rows in (("best", look.best), ("worst", look.worst)):
        if not rows:
            continue
        cells = [
            [
                Text(str(row["step"])),
                *map(shown, (label(row["expert"], row["digest"]), row["prompt"], row["completion"])),
                Text(f"{row['reward']:+.3g}"),
                shown(row["reason"]),
            ]
            for row in rows
        ]
        print_table(console, title, ("step", "expert", "prompt", "completion", "reward", "reason"), cells, lines=True)
    if not query.changed:
        return
    if not look.changed:
        console.print("most changed: no prompt has another mean reward at later steps than at earlier ones")
        return
    cells = [
        [
            *map(shown, (label(early["expert"], early["digest"]), early["prompt"])),
            Text(f"{change.early:+.3g} → {change.late:+.3g}"),
            *(Text(f"step {row['step']}, {row['reward']:+.3g}: ") + shown(row["completion"]) for row in (early, late)),
        ]
        for change, early, late in look.changed
    ]
    names = ("expert", "prompt", "mean reward", "early completion", "late completion")
    print_table(console, "most changed", names, cells, lines=True)


def _labels(trainings: Sequence[Training]) -> Callable[[str, str], str]:
    """Return the function that labels an expert: its name, with the digest if the run trained it several times."""
    times = Counter(training.expert for training in trainings)
    return lambda expert, digest: f"{expert} ({digest})" if times[expert] > 1 else expert

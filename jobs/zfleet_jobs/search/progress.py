"""One display for all searches of a run; a line for each generation if the output is no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class SearchProgress(Callback):
    """A bar for each search, and how many answers were graded.

    Tune stores its callbacks with the run, so that this one holds plain data until the run begins.

    Args:
        generations: {search: how many}.
    """

    def __init__(self, generations: Mapping[str, int]) -> None:
        self._generations = dict(generations)
        self._at: dict[str, int] = {}
        self._answers: dict[str, int] = dict.fromkeys(generations, 0)
        self._display: Progress | None = None
        self._bars: dict[str, TaskID] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_display": None, "_bars": {}}

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("search {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("generations, {task.fields[answers]} answers"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._display = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bars = {
            name: self._display.add_task(name, total=total, answers=0) for name, total in self._generations.items()
        }
        self._display.start()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        name, generation = result["search"], result["generation"]
        total = self._generations[name]
        self._answers[name] += result["answers"]
        if self._display is None:
            return
        # As the lines say it, a generation counts from its first answers on: no round needs to follow the last one.
        begun = 0 if result["stage"] in ("prior", "known") else generation + 1
        self._display.update(self._bars[name], completed=begun, answers=self._answers[name])
        if self._display.disable and result["stage"] == "population" and generation > self._at.get(name, -1):
            self._at[name] = generation
            line = f"search {name}: generation {generation + 1} of {total}, {self._answers[name]} answers"
            self._display.console.print(line, markup=False, soft_wrap=True)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._display is not None:
            self._display.console.print(f"search trial {trial} failed and is tried again")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self._display is not None:
            self._display.stop()

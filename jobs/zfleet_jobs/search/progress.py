"""One display for all searches of a run; a line for each generation if the output is no terminal."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class SearchProgress(Callback):
    """A bar for each search, with the best accuracy so far.

    Tune stores its callbacks with the run, so that this one holds plain data until the run begins.

    Args:
        names: Of the searches.
        generations: Of each.
        chunks: Of each generation.
    """

    def __init__(self, names: tuple[str, ...], generations: int, chunks: int) -> None:
        self._names = names
        self._generations = generations
        self._chunks = chunks
        self._seen: dict[tuple[str, int], int] = {}
        self._best = dict.fromkeys(names, 0.0)
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
            TextColumn("generations, best {task.fields[best]:.3f} on the shots"),
            TimeElapsedColumn(),
        )
        self._display = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bars = {name: self._display.add_task(name, total=self._generations, best=0.0) for name in self._names}
        self._display.start()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        name, generation = result["search"], result["generation"]
        self._seen[name, generation] = self._seen.get((name, generation), 0) + 1
        done = generation + self._seen[name, generation] / self._chunks
        self._best[name] = max(self._best[name], *(accuracy for accuracy, _ in result["scores"]))
        if self._display is None:
            return
        self._display.update(self._bars[name], completed=done, best=self._best[name])
        if self._display.disable and self._seen[name, generation] == self._chunks:
            line = f"search {name}: generation {generation + 1} of {self._generations}, best {self._best[name]:.3f}"
            self._display.console.print(f"{line} on the shots", markup=False, soft_wrap=True)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._display is not None:
            self._display.console.print(f"search trial {trial} failed and is tried again")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self._display is not None:
            self._display.stop()

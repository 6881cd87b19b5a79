"""The cross-entropy method as a Ray Tune searcher: every suggestion is one chunk of a population.

A generation is a barrier: no chunk of the next one exists before the last score of this one is in. Several
searches share one Tune run, so that actors start once, and so that one search's barrier is filled with
chunks of another.

Only the searcher's state counts. A chunk is done when its scores are in; after a restore every other chunk is
offered again, whatever became of its trial. The state is stored as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from zfleet.errors import CheckpointError
from zfleet.files import write_atomic
from zfleet.search.cross_entropy import CrossEntropy

FORMAT = "zfleet-chunk-searcher/1"
Key = tuple[str, int, int]
"""Search, generation, chunk."""


class ChunkSearcher(Searcher):
    """Offers chunks of populations, earlier searches first, and tells whole generations their scores.

    Args:
        searches: {name: search}; they belong to the searcher from now on.
        generations: Of each search.
        chunks: Of each population: near-equal parts in order.
        actors: How many score chunks at once.
    """

    CKPT_FILE_TMPL = "searcher-state-{}.json"

    def __init__(self, searches: Mapping[str, CrossEntropy], *, generations: int, chunks: int, actors: int = 1) -> None:
        super().__init__()
        self.searches = dict(searches)
        self.records: dict[str, list[dict[str, Any]]] = {name: [] for name in self.searches}
        self.generations = generations
        self.chunks = chunks
        self.actors = actors
        self._running: dict[str, Key] = {}
        # Tune starts an actor for each of the first trials; every later one takes over the actor of a trial whose
        # scores are in (see scheduler.py), one at a time, because Tune would start another actor for a second one.
        self._started = 0
        self._held: set[str] = set()
        self._handing_over = False

    @property
    def finished(self) -> bool:
        """Whether every search has the scores of its last generation."""
        return all(search.generation >= self.generations for search in self.searches.values())

    def suggest(  # type: ignore[override]  # Ray's own FINISHED is a string
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Offer the next chunk as a trial's config; ``None`` at the barrier, ``FINISHED`` at the end."""
        if self.finished:
            return str(Searcher.FINISHED)
        if self._handing_over or (not self._held and self._started >= self.actors):
            return None
        for name, search in self.searches.items():
            for chunk, points in self._open_chunks(name).items():
                key = (name, search.generation, chunk)
                if key not in self._running.values():
                    self._running[trial_id] = key
                    self._handing_over = bool(self._held)
                    self._started += not self._held
                    return dict(zip(("search", "generation", "chunk", "points"), (*key, points), strict=True))
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take a trial's scores. Those of a chunk that has scores, or of a finished generation, are ignored."""
        self._running.pop(trial_id, None)
        self._held.add(trial_id)
        self._take(result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note the end of a trial. A chunk that failed has no scores: it is offered again."""
        if result is not None and not error:
            self._take(result)
        if self._handing_over and trial_id in self._held:
            self._handing_over = False
        else:
            self._started -= 1  # its actor is gone, too
        self._running.pop(trial_id, None)
        self._held.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Write the state as JSON, atomically."""
        state = {
            "format": FORMAT,
            "generations": self.generations,
            "chunks": self.chunks,
            "searches": {name: json.loads(search.to_json()) for name, search in self.searches.items()},
            "records": self.records,
        }
        write_atomic(Path(checkpoint_path), json.dumps(state).encode())

    def restore(self, checkpoint_path: str) -> None:
        """Read what ``save`` wrote; chunks without scores will be offered again.

        Raises:
            CheckpointError: Damaged, or the state of another search.
        """
        try:
            state = json.loads(Path(checkpoint_path).read_text())
            if (state["format"], state["generations"], state["chunks"]) != (FORMAT, self.generations, self.chunks):
                raise ValueError("it is of another search")
            searches = {name: CrossEntropy.from_json(json.dumps(one)) for name, one in state["searches"].items()}
            records = state["records"]
            if not list(searches) == list(records) == list(self.searches):
                raise ValueError(f"it holds the searches {list(searches)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{Path(checkpoint_path).name} is no state of this search: {error}",
                "remove the search's folder under `storage` and start again",
            ) from error
        self.searches, self.records = searches, records
        self._running, self._started, self._held, self._handing_over = {}, 0, set(), False

    def _take(self, result: dict[str, Any]) -> None:
        name = result["search"]
        search = self.searches[name]
        if result["generation"] != search.generation or result["chunk"] not in self._open_chunks(name):
            return
        self.records[name].append({key: result[key] for key in RECORD})
        generation = self._scored(name)
        if len(generation) == self.chunks:
            search.tell([score for chunk in range(self.chunks) for score in generation[chunk]["scores"]])

    def _open_chunks(self, name: str) -> dict[int, list[list[float]]]:
        """List chunks of the search's present generation without scores; asks for the population if need be."""
        search = self.searches[name]
        if search.generation >= self.generations:
            return {}
        population = search.ask() if search.pending is None else search.pending
        scored = self._scored(name)
        parts = enumerate(np.array_split(population, self.chunks))
        return {chunk: points.tolist() for chunk, points in parts if chunk not in scored}

    def _scored(self, name: str) -> dict[int, dict[str, Any]]:
        generation = self.searches[name].generation
        return {record["chunk"]: record for record in self.records[name] if record["generation"] == generation}


RECORD = ("generation", "chunk", "scores", "actor", "batch_rows", "distinct_z", "seconds", "opened_seconds")
"""What a trial reports and the searcher stores, besides the name of its search."""

"""Searches as a Ray Tune searcher: every suggestion is one chunk of a round of one search.

A round is a barrier: no chunk of the next one exists before the last answer of this one is in. Several searches share
one Tune run, so that actors start once, and so that one search's barrier is filled with chunks of another.

Only the searcher's state counts. A chunk is done when its answers are in; after a restore every other chunk is offered
again, whatever became of its trial. The state is stored as JSON: what each search was told, which a new search like it
is told again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from zfleet.errors import CheckpointError, ZfleetError
from zfleet.files import write_atomic
from zfleet.search.search import Search

FORMAT = "zfleet-chunk-searcher/2"
Key = tuple[str, int, int]
"""Search, round, chunk."""
_Parts = dict[int, list[Any]]
"""Of chunks of the pending round: of each candidate [samples, metrics]."""


class ChunkSearcher(Searcher):
    """Offers chunks of rounds, earlier searches first, and tells the searches whole rounds.

    Args:
        searches: {name: search}, at their start; they belong to the searcher from now on.
        chunks: Of each round: near-equal parts in order; a round of fewer candidates has fewer.
        actors: How many work on chunks at once.
    """

    CKPT_FILE_TMPL = "searcher-state-{}.json"

    def __init__(self, searches: Mapping[str, Search], *, chunks: int, actors: int = 1) -> None:
        super().__init__()
        self.searches = dict(searches)
        self.records: dict[str, list[dict[str, Any]]] = {name: [] for name in self.searches}
        self.chunks = chunks
        self.actors = actors
        self._begun = copy.deepcopy(self.searches)
        self._measured: dict[str, _Parts] = {name: {} for name in self.searches}
        self._running: dict[str, Key] = {}
        # Tune starts an actor for each of the first trials; every later one takes over the actor of a trial whose
        # answers are in (see scheduler.py), one at a time, because Tune would start another actor for a second one.
        self._started = 0
        self._held: set[str] = set()
        self._handing_over = False

    @property
    def finished(self) -> bool:
        """Whether every search has its outcome."""
        return all(search.pending is None for search in self.searches.values())

    def suggest(  # type: ignore[override]  # Ray's own FINISHED is a string
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Offer the next chunk as a trial's config; ``None`` at the barrier, ``FINISHED`` at the end."""
        if self.finished:
            return str(Searcher.FINISHED)
        if self._handing_over or (not self._held and self._started >= self.actors):
            return None
        for name, search in self.searches.items():
            for chunk, part in self._open_chunks(name).items():
                key = (name, len(search.told), chunk)
                if key not in self._running.values():
                    self._running[trial_id] = key
                    self._handing_over = bool(self._held)
                    self._started += not self._held
                    return dict(zip(("search", "round", "chunk"), key, strict=True)) | part
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take a trial's answers. Those of a chunk that has answers, or of a finished round, are ignored.

        Raises:
            ValueError, RewardError: The search refuses them; nothing of the trial is kept.
        """
        self._running.pop(trial_id, None)
        self._held.add(trial_id)
        self._take(result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note the end of a trial. A chunk that failed has no answers: it is offered again."""
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
            "chunks": self.chunks,
            "told": {name: search.told for name, search in self.searches.items()},
            "measured": {name: list(chunks.items()) for name, chunks in self._measured.items()},
            "records": self.records,
        }
        write_atomic(Path(checkpoint_path), json.dumps(state).encode())

    def restore(self, checkpoint_path: str) -> None:
        """Read what ``save`` wrote; chunks without answers will be offered again.

        Raises:
            CheckpointError: Damaged, or the state of another search.
        """
        try:
            state = json.loads(Path(checkpoint_path).read_text())
            if (state["format"], state["chunks"]) != (FORMAT, self.chunks):
                raise ValueError("it is of another search")
            if not list(state["told"]) == list(state["records"]) == list(self.searches):
                raise ValueError(f"it holds the searches {list(state['told'])}")
            searches = copy.deepcopy(self._begun)
            for name, search in searches.items():
                search.replay((digest, measured) for digest, measured in state["told"][name])
            measured: dict[str, _Parts] = {name: {} for name in searches}
            for name, search in searches.items():
                for chunk, part in state["measured"][name]:
                    _keep(search, measured[name], self.chunks, chunk, part)
            if any(record.keys() != set(RECORD) for records in state["records"].values() for record in records):
                raise ValueError("its records of trials are not whole")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ZfleetError) as error:
            raise CheckpointError(
                f"{Path(checkpoint_path).name} is no state of this search: {error}",
                "remove the search's folder under `storage` and start again",
            ) from error
        self.searches, self.records, self._measured = searches, state["records"], measured
        self._running, self._started, self._held, self._handing_over = {}, 0, set(), False

    def _take(self, result: dict[str, Any]) -> None:
        name = result["search"]
        if result["round"] != len(self.searches[name].told) or result["chunk"] not in self._open_chunks(name):
            return
        record = {key: result[key] for key in RECORD}
        _keep(self.searches[name], self._measured[name], self.chunks, result["chunk"], result["measured"])
        self.records[name].append(record)

    def _open_chunks(self, name: str) -> dict[int, dict[str, Any]]:
        return _open_chunks(self.searches[name], self._measured[name], self.chunks)


def _keep(search: Search, measured: _Parts, chunks: int, chunk: int, part: list[Any]) -> None:
    """Keep the answers of an open chunk, and tell the search its round once all are in.

    Nothing is kept of answers that the search would refuse.

    Raises:
        KeyError: The chunk is not open.
        ValueError, RewardError: As ``Search.checked``.
    """
    search.checked(part, _open_chunks(search, measured, chunks)[chunk]["samples"])
    measured[chunk] = part
    if not _open_chunks(search, measured, chunks):
        answers = [np.array(one) for number in sorted(measured) for one in measured[number]]
        measured.clear()
        search.tell(answers)


def _open_chunks(search: Search, measured: _Parts, chunks: int) -> dict[int, dict[str, Any]]:
    """List chunks of the search's pending round without answers."""
    pending = search.pending
    if pending is None:
        return {}
    chunks = min(chunks, len(pending.points))
    parts = enumerate(zip(np.array_split(pending.points, chunks), _split(pending.samples, chunks), strict=True))
    return {
        chunk: {
            "stage": pending.stage,
            "generation": pending.generation,
            "points": points.tolist(),
            "samples": samples,
        }
        for chunk, (points, samples) in parts
        if chunk not in measured
    }


def _split(samples: tuple[tuple[int, ...], ...], chunks: int) -> list[list[list[int]]]:
    """Split as ``numpy.array_split`` does, which takes no rows of different lengths."""
    places = np.array_split(np.arange(len(samples)), chunks)
    return [[list(samples[place]) for place in part] for part in places]


RECORD = (
    "round",
    "chunk",
    "stage",
    "generation",
    "candidates",
    "answers",
    "actor",
    "batch_rows",
    "distinct_z",
    "seconds",
    "opened_seconds",
)
"""What a trial reports and the searcher stores, besides the name of its search and the answers."""

"""The Tune trial of a search: one chunk of a population, in one engine batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune

from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import Engine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet_cluster.fleet.actors import Fleet
from zfleet_cluster.fleet.base import ShippedBase, fetch_tokenizer, open_model
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.proposals import propose
from zfleet_jobs.search.scoring import measure_candidates
from zfleet_jobs.search.settings import SearchSettings


@dataclass(frozen=True)
class SearchJob:
    """Everything an actor needs; goes through the object store once.

    Attributes:
        shipped: The base.
        problems: The searches, by name.
        settings: How they search.
        fleet: Engines that the actors share; None if each actor opens the base.
    """

    shipped: ShippedBase
    problems: Mapping[str, SearchProblem]
    settings: SearchSettings
    fleet: Fleet | None


class ChunkTrainable(tune.Trainable):
    """Opens the base once, or uses the fleet; each ``step`` answers the chunk in its config. Actors are reused.

    An engine costs next to nothing compared with the base, and counts its peaks from its start: each chunk gets an
    engine of its own (a client of its own, with a fleet), so that a trial reports its own peaks.
    """

    def setup(self, config: dict[str, Any], job: SearchJob | None = None) -> None:
        assert job is not None  # from tune.with_parameters
        started = time.perf_counter()
        torch.set_num_threads(job.settings.resources.torch_threads)
        self._job = job
        self._model = None if job.fleet else open_model(job.shipped)
        self._tokenizer = self._model.base.tokenizer if self._model else fetch_tokenizer(job.shipped)
        self._opened_seconds = time.perf_counter() - started

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # The base stays open; ``reset`` has set ``config``.
        self._opened_seconds = 0.0
        return True

    def step(self) -> dict[str, Any]:
        started = time.perf_counter()
        problem = self._job.problems[self.config["search"]]
        with SyncEngine(self._engine()) as engine:
            if self._job.settings.engine.vllm.form.delta is not None:
                # For the experts of all searches, which share the fleet: only the first chunk chooses.
                experts = [z for other in self._job.problems.values() for z in other.experts.values()]
                engine.choose_directions([engine.put_z(z) for z in experts])
            points, samples = self.config["points"], self.config["samples"]
            if self.config["stage"] == "prior":
                measured = [propose(engine, self._tokenizer, problem, self._job.settings, one) for one in samples]
            else:
                measured = measure_candidates(engine, self._tokenizer, problem, self._job.settings, points, samples)
            stats = engine.stats()
        return {
            **{key: self.config[key] for key in ("search", "round", "chunk", "stage", "generation")},
            "measured": measured,
            "candidates": len(points),
            "answers": sum(map(len, samples)),
            "actor": ray.get_runtime_context().get_actor_id(),
            "batch_rows": stats.peak_batch,
            "distinct_z": stats.peak_distinct_z,
            "seconds": time.perf_counter() - started,
            "opened_seconds": self._opened_seconds,
        }

    def _engine(self) -> Engine:
        if self._job.fleet is not None:
            return self._job.fleet.engine()
        assert self._model is not None
        return TorchEngine(self._model, self._job.settings.engine)

"""``zfleet evaluate``: from a spec to a run's folder with answers, table, report, and a run in MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from zfleet.config.evaluate import LORA, EvaluateSpec
from zfleet.config.load import dump_spec
from zfleet.engine.open import check_engine
from zfleet.evaluate.about import About
from zfleet.evaluate.ways import ways_of
from zfleet.memory.jobs import planned
from zfleet.rewards.grading import check_reward
from zfleet_cluster import cluster
from zfleet_cluster.fleet.base import ShippedBase, ship
from zfleet_jobs.code_version import code_version
from zfleet_jobs.evaluate.answerer import Pool, Result, Work
from zfleet_jobs.evaluate.answers import Answers, OnProgress
from zfleet_jobs.evaluate.cell_files import write_cell
from zfleet_jobs.evaluate.lora import LoraTraining, lora_cells, lora_trainings
from zfleet_jobs.evaluate.measure import measure
from zfleet_jobs.evaluate.prepared import Mixtures
from zfleet_jobs.evaluate.preparing import Ready, get_ready
from zfleet_jobs.evaluate.progress import progress_bar, timed
from zfleet_jobs.evaluate.results import ABOUT_FILE, Results, read_about, read_results, write_trace
from zfleet_jobs.evaluate.searches import search_all
from zfleet_jobs.evaluate.tracking import EXPERIMENT, track
from zfleet_jobs.evaluate.workers import worker_pool
from zfleet_jobs.recorded_spec import check_recordable, recorded
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.search.mixtures import FoundMixture, finished_mixtures, search_mixtures
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.settings import SearchSettings
from zfleet_registry import ExpertRegistry


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A finished evaluation.

    Attributes:
        results: Its answers and its table.
        run_id: Of its run in MLflow.
    """

    results: Results
    run_id: str


def run_evaluate(spec: EvaluateSpec, address: str | None = None, on_progress: OnProgress | None = None) -> Evaluated:
    """Measure every way of the spec on every task, and write the table, the report and a run of MLflow.

    What an earlier call answered, of this evaluation or another one in the same storage, is not answered again; if
    nothing is missing, no cluster is started.

    Args:
        spec: The job.
        address: A running Ray cluster; by default one is started on this machine for as long as it is needed.
        on_progress: Is told how far each stage is; None shows a bar in a terminal.

    Raises:
        ExpertNotFound, RegistryUnreachable: An expert cannot be loaded.
        RegistryError: The experiment of evaluations was deleted in MLflow.
        WrongBase, SpecError, TaskError, BaseModelError, EngineError: The spec names something that cannot be used.
        JobError: No resources, or a worker that died; running it again goes on.
        KeyboardInterrupt: Ctrl-C; running it again goes on.
    """
    check_recordable(spec)
    registry = ExpertRegistry(spec.registry)
    registry.check_experiments(EXPERIMENT)
    ready = get_ready(spec, registry)
    trainings = [] if spec.lora is None else lora_trainings(spec.lora, ready.bundle.fingerprint)
    if address is None:
        check_engine(ready.prepared.spec.engine)
        for task in ready.prepared.tasks.values():
            check_reward(task.reward)
    planned(ready.prepared.spec, ready.bundle.model, list(ready.fits.values()))
    run, seconds = _measure(ready, trainings, address, on_progress)
    _write_about(ready, run, seconds)
    results = read_results(run)
    report = results.report()
    for name, data in report.items():
        run.put(name, data)
    return Evaluated(results, track(registry, results, report))


def run_folder(spec: EvaluateSpec) -> Storage:
    """Find the folder of an evaluation, whether it ran or not.

    Raises:
        ZfleetError: As ``run_evaluate``, of what the spec names.
    """
    return Storage.at(str(get_ready(spec, ExpertRegistry(spec.registry)).folder))


def _measure(
    ready: Ready, trainings: list[LoraTraining], address: str | None, on_progress: OnProgress | None
) -> tuple[Storage, dict[str, float]]:
    """Search, answer, and write the cells of a run.

    Returns:
        The run's folder, and the seconds of the stages in which something was computed.
    """
    prepared, run = ready.prepared, Storage.at(str(ready.folder))
    seconds: dict[str, float] = {}
    storage = Storage.at(prepared.spec.storage)
    run.put("spec.yaml", dump_spec(recorded(prepared.spec)).encode())
    mixtures = Mixtures(prepared)
    with ExitStack() as stack:
        connection = _Connection(ready, address, mixtures, stack)
        began = time.monotonic()
        found = search_all(prepared, connection.search, Path(prepared.spec.storage))
        if connection.open:
            seconds["searches"] = time.monotonic() - began
        for one in found.values():
            write_trace(run, one.trace)
        # Searches show how far they are themselves.
        tell = timed(on_progress or stack.enter_context(progress_bar()), seconds)
        answers = Answers(prepared, storage, connection.pool, tell)
        cells = measure(prepared, {key: one.mixture for key, one in found.items()}, mixtures, answers, storage)
    for cell in [*cells, *lora_cells(prepared, trainings)]:
        write_cell(run, cell.key, cell.way.kind, cell.own_task, cell.rows)
    return run, seconds


class _Connection:
    """Connects to a cluster, and starts workers, when something has to be computed for the first time."""

    def __init__(self, ready: Ready, address: str | None, mixtures: Mixtures, stack: ExitStack) -> None:
        self._ready = ready
        self._address = address
        self._mixtures = mixtures
        self._stack = stack
        self._shipped: ShippedBase | None = None
        self._pool: Pool | None = None

    @property
    def open(self) -> bool:
        """Whether anything had to be computed so far."""
        return self._shipped is not None

    def search(
        self, problems: Sequence[SearchProblem], settings: SearchSettings, storage: Path, name: str
    ) -> Sequence[FoundMixture]:
        """As ``searches.Search``."""
        finished = finished_mixtures(self._ready.bundle, problems, settings, storage, name)
        return finished or search_mixtures(self._base(), problems, settings, storage, name)

    def pool(self, work: Sequence[Work]) -> Iterator[tuple[Work, Result]]:
        """As ``answerer.Pool``."""
        if self._pool is None:
            pool = worker_pool(self._ready.prepared, self._base(), self._mixtures.by_digest)
            self._pool = self._stack.enter_context(pool)
        return self._pool(work)

    def _base(self) -> ShippedBase:
        if self._shipped is None:
            self._stack.enter_context(cluster(self._address))
            self._shipped = ship(self._ready.bundle)
        return self._shipped


def _write_about(ready: Ready, run: Storage, seconds: Mapping[str, float]) -> None:
    """Write what the run was; last, so that a folder with this file is a finished run."""
    prepared = ready.prepared
    spec = prepared.spec
    about = About(
        name=spec.name,
        base=ready.bundle.name,
        fingerprint=ready.bundle.fingerprint,
        engine=spec.engine.kind,
        experts={reference: z.digest for reference, z in prepared.experts.items()},
        tasks=tuple(spec.tasks),
        ways=(*(way.name for way in ways_of(spec, list(prepared.experts))), *([LORA] if spec.lora else [])),
        against=spec.against,
        shots=spec.shots,
        draws=spec.draws,
        seeds=spec.seeds,
        temperature=spec.temperature,
        cluster_by=spec.cluster_by,
        code=code_version(),
        seconds={**_seconds_before(run), **seconds},
    )
    run.put(ABOUT_FILE, about.to_json())


def _seconds_before(run: Storage) -> Mapping[str, float]:
    """Return the seconds of stages as an earlier call measured them, in which they computed something."""
    return read_about(run).seconds if run.get(ABOUT_FILE) is not None else {}

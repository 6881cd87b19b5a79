"""Registering the mixture that a search found, and logging how it was found."""

from __future__ import annotations

from collections.abc import Mapping

from zfleet.config.names import CHAMPION
from zfleet.evaluate.statistics.proportions import wilson
from zfleet.models.base import Base
from zfleet.models.bundle import BaseBundle
from zfleet.svf.zvector import ZVector
from zfleet.tasks.fit import data_digest
from zfleet.tasks.task import Task
from zfleet_jobs.code_version import code_version
from zfleet_jobs.search.mixtures import FoundMixture
from zfleet_jobs.tracked import ending
from zfleet_registry import ExpertRegistry
from zfleet_registry.provenance import Parent, Provenance
from zfleet_registry.version import ExpertVersion

EXPERIMENT = "search"
"""The registry's experiment that holds all searches."""

Step = tuple[int, dict[str, float]]
"""A step of a run, and its metrics."""


def register_mixture(
    registry: ExpertRegistry,
    mixture: FoundMixture,
    task: Task,
    experts: Mapping[str, ZVector],
    base: Base | BaseBundle,
    spec: str = "",
) -> ExpertVersion:
    """Register the winner under the search's name, with the experts as parents and the curve in a run.

    The rule for what is served by default is that of training: every new version of a name becomes its
    champion. A mixture whose very z is a version of that name already is not registered again, and no alias
    moves: a roll-back to another version stays.

    Args:
        task: Its train split are the shots.
        experts: {reference: z}, as searched over.
        spec: The job's spec, as JSON.

    Returns:
        The new version, or the newest one that has this z.

    Raises:
        CorruptArtifact: There is one, and its file is damaged.
    """
    known = [v for v in registry.list(base.slug) if v.name == mixture.name and v.z_digest == mixture.z.digest]
    if known:
        newest = max(known, key=lambda one: one.version)
        registry.load(newest)
        return newest
    parents = tuple(Parent(reference, z.digest, mixture.alphas[reference]) for reference, z in experts.items())
    metrics = {
        "shots_value": mixture.score.value,
        "shots_tie": mixture.score.tie,
        "shots_value_base": mixture.base.value,
        "shots_value_best_single": max(score.value for score in mixture.singles.values()),
        **{f"test_accuracy_{name}": sum(right) / len(right) for name, right in mixture.test.items()},
    }
    provenance = Provenance.of(
        mixture.z,
        task=task.name,
        data_digest=data_digest(task),
        spec=spec,
        code_version=code_version(),
        metrics=metrics,
        intervals={
            f"test_accuracy_{name}": wilson(sum(right) / len(right), len(right)) for name, right in mixture.test.items()
        },
        parents=parents,
        kind="mixture",
    )
    run = registry.start_run(
        mixture.name, experiment=EXPERIMENT, params={"task": task.name, "shots": str(len(task.train))}
    )
    with ending(registry, run):
        registry.log_curve(run, _generations(mixture))
        nested = registry.start_run(
            f"{mixture.name} candidates", experiment=EXPERIMENT, tags={"mlflow.parentRunId": run}
        )
        with ending(registry, nested):
            registry.log_curve(nested, _candidates(mixture))
        registry.log_metrics(run, metrics, step=len(mixture.history) - 1)
        registered = registry.register(mixture.name, mixture.z, provenance, base_name=base.name, run_id=run)
        return registry.offer(registered, CHAMPION)


def _generations(mixture: FoundMixture) -> list[Step]:
    """Name the best so far and the mean of each generation; of a second target as ``best.2`` and ``mean.2``."""
    # The base and the experts alone answer every shot.
    shots = max(one.shots for one in mixture.tried)
    rows = []
    for step, one in enumerate(mixture.history):
        row = {"best": one.best, "mean": one.mean}
        for target in range(1, mixture.targets):
            before = [other for other in mixture.tried if other.generation <= step and other.shots == shots]
            own = [other.score[target] for other in mixture.tried if other.generation == step]
            row[f"best.{target + 1}"] = max(other.score[target] for other in before)
            if own:  # a population may repeat points of before
                row[f"mean.{target + 1}"] = sum(own) / len(own)
        rows.append((step, row))
    return rows


def _candidates(mixture: FoundMixture) -> list[Step]:
    """Make a step of every candidate: the value of each target, and each expert's mean alpha."""
    rows = []
    for number, one in enumerate(mixture.tried):
        values = {f"value.{target + 1}" if target else "value": one.score[target] for target in range(mixture.targets)}
        means = one.point.reshape(len(mixture.alphas), -1).mean(axis=1).tolist()
        alphas = {f"alpha.{name.replace('@', '.')}": mean for name, mean in zip(mixture.alphas, means, strict=True)}
        rows.append((number, values | {"shots": float(one.shots), "generation": float(one.generation)} | alphas))
    return rows

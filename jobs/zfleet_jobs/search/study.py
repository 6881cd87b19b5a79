"""A search as an Optuna study, for optuna-dashboard and Optuna's own analyses.

The study is written from what the search tried; the search never reads it. An alpha that is split, over layers or
matrices, is shown by its mean over the parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from zfleet.errors import JobError
from zfleet.search.plan import Tried
from zfleet.search.search import Search
from zfleet_registry.address import address_of, redact

STUDY = "study.db"
_TRIAL = "candidate"


def check_study(storage: str) -> None:
    """Refuse the URL of a database that no study can be written to here. The database itself is not asked.

    Raises:
        JobError: It is no URL, or its driver is not installed.
    """
    with _database(storage):
        create_engine(storage).dispose()


def write_studies(searches: Mapping[str, Search], folder: Path, storage: str | None) -> None:
    """Write every search that was told anything as a study named ``NAME-DIGEST``, as ``write_study`` does.

    Args:
        searches: {name: search}, all of one run.
        folder: Of the run; its name ends in the digest.
        storage: As for ``write_study``.

    Raises:
        JobError: As ``write_study``.
    """
    for name, search in searches.items():
        if search.told:
            write_study(search, f"{name}-{folder.name[-12:]}", folder, storage)


def write_study(search: Search, name: str, folder: Path, storage: str | None = None) -> str:
    """Add the candidates that a study lacks, but for those of a race under way. Those that dropped out are pruned.

    Args:
        search: At its end, or wherever it was stopped.
        name: Of the study: one search has one.
        folder: Of the run.
        storage: URL of the study's database; None for a file in the folder.

    Returns:
        The URL, which ``optuna-dashboard`` opens.

    Raises:
        JobError: The database does not take it, or holds a study of this name with other alphas.
    """
    url = storage or f"sqlite:///{folder / STUDY}"
    objectives, experts = len(search.objective.targets), search.space.experts
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _database(url):
        study = optuna.create_study(
            study_name=name, storage=RDBStorage(url), directions=["maximize"] * objectives, load_if_exists=True
        )
        if study.user_attrs.get("experts", list(experts)) != list(experts):
            raise JobError(
                f"study {name!r} in {address_of(url)} is of the experts {study.user_attrs['experts']}, "
                f"not {list(experts)}",
                "give `study` another database, or delete the study there",
            )
        study.set_user_attr("experts", list(experts))
        with warnings.catch_warnings():
            # Optuna calls the names of objectives experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([_name(target) for target in search.objective.targets])
        stored = {trial.user_attrs.get(_TRIAL) for trial in study.get_trials(deepcopy=False)}
        study.add_trials(
            _trial(search, number, one) for number, one in enumerate(_settled(search)) if number not in stored
        )
    return url


@contextmanager
def _database(url: str) -> Iterator[None]:
    """Turn what Optuna and SQLAlchemy raise inside the block into a ``JobError``, without secrets."""
    try:
        yield
    except ImportError as error:
        raise JobError(
            f"the study cannot be written to {address_of(url)}: the database's driver is not installed",
            "`pip install 'zfleet[postgres]'` (in a checkout: `pip install '.[postgres]'`) brings the one of "
            "postgresql://…; for another URL, install the driver that it names; then give the same command",
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise JobError(
            f"the study cannot be written to {address_of(url)}: {redact(str(error).splitlines()[0], url)}",
            "check that the database answers and has room; the search's outcome is kept, and the same command goes on",
        ) from error


def _settled(search: Search) -> list[Tried]:
    """List the candidates whose scores change no more: those of a race that is under way may."""
    tried, pending = search.tried(), search.pending
    if pending is None or pending.stage in ("final", "test"):
        return tried
    return [one for one in tried if one.generation < pending.generation]


def _trial(search: Search, number: int, tried: Tried) -> FrozenTrial:
    space, count = search.space, len(search.objective.targets)
    means = tried.point.reshape(len(space.experts), -1).mean(axis=1).tolist()
    distributions: dict[str, BaseDistribution] = {
        expert: FloatDistribution(space.low, max(space.high, max(means))) for expert in space.experts
    }
    whole = tried.shots == search.plan.shots
    values = list(tried.score[:count])
    return create_trial(
        state=TrialState.COMPLETE if whole else TrialState.PRUNED,
        values=values if whole else None,
        params=dict(zip(space.experts, means, strict=True)),
        distributions=distributions,
        intermediate_values={} if count > 1 else {tried.shots: values[0]},
        user_attrs={_TRIAL: number, "generation": tried.generation, "shots": tried.shots, "score": list(tried.score)},
    )


def _name(target: Mapping[str, float]) -> str:
    return " + ".join(metric if weight == 1 else f"{weight:g} {metric}" for metric, weight in target.items())

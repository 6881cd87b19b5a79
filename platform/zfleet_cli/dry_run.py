"""Check a job's tasks against its base before the job starts, without the base's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.compare import ExperimentSpec
from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import AnsweringSpec, BaseSpec, EngineSpec, TrainSpec
from zfleet.config.task_specs import TaskSpec
from zfleet.config.transfer import TransferSpec
from zfleet_cli.memory_rows import memory_rows, print_memory
from zfleet_cli.output import print_spec

if TYPE_CHECKING:
    from zfleet.tasks.fit import FitReport
    from zfleet.tasks.task import Task

Answering = TypeVar("Answering", bound=AnsweringSpec)


def check_job(
    job: TrainSpec | SearchSpec | EvaluateSpec | CalibrateSpec | ExperimentSpec | TransferSpec,
    tasks: Sequence[TaskSpec],
    dry_run: bool,
    as_json: bool,
    supervised: Sequence[TaskSpec] = (),
    sizes: Callable[[Sequence[Task]], Mapping[str, int]] | None = None,
) -> bool:
    """Build a job's tasks before any cluster is started, so that a bad prompt file or reward is found in seconds.

    A dry run also checks the tasks against the base, and prints the spec.

    Args:
        tasks: All tasks of the job.
        supervised: The tasks whose reference answers are learned.
        sizes: Of a dry run of this job, which are printed with the spec; computed from its tasks.

    Returns:
        Whether the job should run: False for a dry run.

    Raises:
        TaskError, SpecError: As ``build_task``; a dry run also as ``check_on_base``.
    """
    from zfleet.tasks.build import build_task

    built = [build_task(task) for task in tasks]
    if dry_run:
        built_supervised = [
            task for spec, task in zip(tasks, built, strict=True) if any(spec is other for other in supervised)
        ]
        checked = with_engine(job) if isinstance(job, AnsweringSpec) else job
        folder, fits = check_on_base(checked.base, checked.engine, built, built_supervised)
        _check_registered(checked, folder)
        print_planned(checked, as_json, folder, fits, None if sizes is None else sizes(built))
    return not dry_run


def _check_registered(
    job: TrainSpec | SearchSpec | EvaluateSpec | CalibrateSpec | ExperimentSpec | TransferSpec, folder: Path | None
) -> None:
    """Look up the versions that a training or a search begins at. The registry is asked for nothing else.

    Args:
        job: The job.
        folder: Of its base; None if its files are not here: a reference names a version of one base.

    Raises:
        ExpertNotFound, RegistryError, WrongBase, SpecError: As ``check_starts`` and ``check_prior``.
    """
    starts = [expert.start for expert in job.experts if expert.start] if isinstance(job, TrainSpec) else []
    prior = job.space.prior if isinstance(job, SearchSpec) else None
    if not isinstance(job, TrainSpec | SearchSpec) or (not starts and prior is None):
        return
    named = "`start`" if starts else "`space.prior`"
    if folder is None:
        typer.echo(f"{named} is looked up when the base has been fetched", err=True)
        return
    from zfleet.models.base import base_name, base_slug
    from zfleet.models.fingerprint import fingerprint
    from zfleet_registry import ExpertRegistry

    registry, digest = ExpertRegistry(job.registry), fingerprint(folder)
    slug = base_slug(job.base.name or base_name(job.base.model), digest)
    if isinstance(job, TrainSpec):
        from zfleet_jobs.train.start import check_starts

        check_starts(registry, job, slug, digest)
    elif prior is not None:
        from zfleet_jobs.search.prior import check_prior

        check_prior(registry, prior, job.experts, slug, digest)


def print_planned(
    job: TrainSpec | SearchSpec | EvaluateSpec | CalibrateSpec | ExperimentSpec | TransferSpec | ServeSpec,
    as_json: bool = False,
    folder: Path | None = None,
    fits: Sequence[FitReport] = (),
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Print the spec of a job that is not run, and the memory of its processes if its base's files are here.

    Args:
        job: The job.
        as_json: Print one JSON object: the spec's keys, `sizes` and `memory`.
        folder: Of its base; None if its files are not here.
        fits: Its tasks, measured.
        sizes: Of the job.

    Raises:
        SpecError: The job can never fit the memory.
    """
    more: dict[str, Any] = {"sizes": dict(sizes)} if sizes else {}
    if not as_json:
        for name, size in (sizes or {}).items():
            typer.echo(f"{name}: {size:,}", err=True)
    if folder is None:
        print_spec(job, as_json, more if as_json else {})
        return
    from zfleet.memory.jobs import planned

    table, room = planned(job, folder, fits)
    print_spec(job, as_json, more | {"memory": memory_rows(table, room)} if as_json else {})
    if not as_json:
        print_memory(table, room)


def with_engine(job: Answering) -> Answering:
    """Resolve `engine: auto` as the job will, unless its base has yet to be fetched.

    Raises:
        BaseModelError: The base is written as a path, and there is no such folder.
    """
    from zfleet.engine.choose import resolve_engine

    if job.engine.kind == "auto" and job.base.model != "lab":
        from zfleet.models.base import local_folder

        if local_folder(job.base.model) is None:
            typer.echo("engine: `auto` chooses when the base has been fetched", err=True)
            return job
    return resolve_engine(job)


def check_on_base(
    base: BaseSpec, engine: EngineSpec, tasks: Iterable[Task], supervised: Sequence[Task] = ()
) -> tuple[Path | None, list[FitReport]]:
    """Check prompts, templates and images against a base that is a local folder, and print how many prompts fit.

    The lab base and bases on the hub cannot be checked before they are built or downloaded. A GGUF file is converted.

    Args:
        base: The base.
        engine: The engine that will generate.
        tasks: All tasks.
        supervised: The tasks whose reference answers are learned.

    Returns:
        The base's folder, None if it was not checked; and of each task what fits.

    Raises:
        BaseModelError: There is no such base, it cannot be converted, or its model family is not supported.
        EngineError: The engine does not run this base.
        TaskError: No prompt fits, the base cannot take a prompt's images, the tokenizer has no chat template, or a
            reference answer is missing or does not fit.
    """
    if supervised:
        from zfleet.rl.reference_answers import check_answered

        for task in supervised:
            check_answered(task)
    if base.model == "lab":
        return None, []
    from transformers import AutoConfig

    from zfleet.models.base import base_name, context_of, load_tokenizer, local_folder
    from zfleet.models.families import check_family, check_no_images, sees
    from zfleet.models.fingerprint import read_config
    from zfleet.models.images import ImageReader
    from zfleet.rl.reference_answers import check_references
    from zfleet.tasks.fit import fit_prompts

    folder = local_folder(base.model)
    if folder is None:
        return None, []
    config, name = read_config(folder), base.name or base_name(base.model)
    check_family(config, name)
    if engine.kind == "vllm":
        check_no_images(config, name)
    context = context_of(AutoConfig.from_pretrained(folder).get_text_config())
    tokenizer, reader = load_tokenizer(folder), ImageReader.open(folder) if sees(config) else None
    reports = []
    for task in tasks:
        report = fit_prompts(task, tokenizer, min(engine.max_length or context, context), reader)
        reports.append(report)
        typer.echo(str(report), err=True)
        if any(task is other for other in supervised):
            check_references(report.task, tokenizer, context, reader)
    return folder, reports

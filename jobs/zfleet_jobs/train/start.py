"""Experts that begin at a registered z, such as that of a mixture: found and checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zfleet.config.specs import TrainSpec
from zfleet.errors import InvalidZ, WrongBase
from zfleet.models.bundle import BaseBundle
from zfleet.rl.parametrisation import PARAMETRISATIONS
from zfleet.svf.zvector import ZVector
from zfleet_jobs.run_folder.plan import Start
from zfleet_registry import ExpertRegistry, ExpertVersion


def find_starts(registry: ExpertRegistry, spec: TrainSpec, bundle: BaseBundle) -> dict[str, Start]:
    """Load what the experts of a job begin at: {expert: start}, without those that begin at the base.

    Raises:
        ExpertNotFound, RegistryError, CorruptArtifact: There is no such version, or it cannot be loaded.
        WrongBase: It belongs to another base, to other targets or to other factors than the job's.
        InvalidZ: The expert's parametrisation cannot have this z.
    """
    starts = {}
    for place, expert in enumerate(spec.experts):
        if expert.start is None:
            continue
        what = f"experts.{place}.start"
        version, z = _found(registry, spec, expert.start, what, bundle.slug, bundle.fingerprint)
        folder = bundle.factor_folder()
        z.check_fits(base=bundle.fingerprint, factors=bundle.factors_digest, layout=folder.layout)
        parametrisation = PARAMETRISATIONS[spec.learner_of(expert).parametrisation](folder.load(), torch.device("cpu"))
        try:
            parametrisation.p(z.flat(folder.layout))
        except InvalidZ as error:
            raise InvalidZ(f"{what} is {version.qualified}: {error.message}", error.remedy) from error
        # The same base may have experts under another name of its own.
        starts[expert.name] = Start(version.reference if version.base_slug == bundle.slug else version.qualified, z)
    return starts


def check_starts(registry: ExpertRegistry, spec: TrainSpec, slug: str, fingerprint: str) -> None:
    """Look up what the experts of a job begin at, before the base is decomposed.

    Args:
        registry: Has the versions.
        spec: The job.
        slug: Name and fingerprint of its base, as references have them.
        fingerprint: Of its base.

    Raises:
        ExpertNotFound, RegistryError, CorruptArtifact, WrongBase: As ``find_starts``.
    """
    for place, expert in enumerate(spec.experts):
        if expert.start is not None:
            _found(registry, spec, expert.start, f"experts.{place}.start", slug, fingerprint)


def _found(
    registry: ExpertRegistry, spec: TrainSpec, start: str, key: str, slug: str, fingerprint: str
) -> tuple[ExpertVersion, ZVector]:
    version = registry.resolve(start, slug)
    z = registry.load(version)
    if z.base != fingerprint:
        raise WrongBase(
            f"{key} is {version.qualified}, a z of base {z.base[:12]}; the job's is {slug}",
            "start at a version of the job's base: a z means something only on the base it was trained on",
        )
    if z.targets != spec.base.targets:
        raise WrongBase(
            f"{key} is {version.qualified}, whose targets are {z.targets!r}; base.targets is {spec.base.targets!r}",
            f"set base.targets to {z.targets!r}, or start at a version with the job's targets",
        )
    return version, z


def with_versions(spec: TrainSpec, starts: Mapping[str, Start]) -> TrainSpec:
    """Replace aliases in a job by versions: a run that is resumed begins where it did, wherever they point by then."""
    experts = tuple(
        expert.model_copy(update={"start": starts[expert.name].reference}) if expert.name in starts else expert
        for expert in spec.experts
    )
    return spec.model_copy(update={"experts": experts})

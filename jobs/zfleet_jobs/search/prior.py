"""A dispatcher's decisions as the point that a search begins at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import DispatcherError, SpecError
from zfleet.models.bundle import BaseBundle
from zfleet.svf.zvector import ZVector
from zfleet_jobs.decisions import asked_by
from zfleet_registry import ExpertRegistry


@dataclass(frozen=True, eq=False)
class Prior:
    """The dispatcher of ``space.prior``.

    Attributes:
        reference: Its version, such as ``router/2``.
        dispatcher: Routes to experts of the search alone.
        asked: The z that its first pass asks.
    """

    reference: str
    dispatcher: StoredDispatcher
    asked: tuple[ZVector, ...] = ()


def find_prior(registry: ExpertRegistry, reference: str, bundle: BaseBundle, experts: Mapping[str, ZVector]) -> Prior:
    """Load the dispatcher of ``space.prior``, and the experts that it asks.

    Args:
        registry: Has it.
        reference: Such as ``router`` or ``router/2``.
        bundle: The search's base.
        experts: {reference: z} of the search.

    Raises:
        ExpertNotFound, RegistryError, CorruptArtifact: There is no such version, it is no dispatcher, or damaged.
        WrongBase: It was calibrated on another base.
        SpecError: As ``check_routes``.
        DispatcherError: An expert that it asks is not the one that it was calibrated with.
    """
    version = registry.resolve(reference, bundle.slug)
    stored = registry.load_dispatcher(version)
    stored.check_base(bundle.fingerprint, bundle.factors_digest)
    check_routes(version.reference, stored, {name: z.digest for name, z in experts.items()})
    asked = []
    for name, digest in asked_by(stored).items():
        z = registry.load(registry.resolve(name, bundle.slug))
        if z.digest != digest:
            raise DispatcherError(
                f"space.prior is {version.reference}, which asks {name} of z {digest[:12]}; {name} has z "
                f"{z.digest[:12]}",
                "calibrate the dispatcher again, with the experts that are there",
            )
        asked.append(z)
    return Prior(version.reference, stored, tuple(asked))


def check_prior(registry: ExpertRegistry, reference: str, experts: Sequence[str], slug: str, fingerprint: str) -> None:
    """Look up the dispatcher of ``space.prior``, before the base is decomposed. No z is loaded.

    Args:
        registry: Has it.
        reference: Such as ``router`` or ``router/2``.
        experts: References of the search's experts.
        slug: Name and fingerprint of the base, as references have them.
        fingerprint: Of the base.

    Raises:
        ExpertNotFound, RegistryError, CorruptArtifact, WrongBase, SpecError: As ``find_prior``.
    """
    version = registry.resolve(reference, slug)
    stored = registry.load_dispatcher(version)
    stored.check_base(fingerprint, stored.document.factors)
    found = [registry.resolve(expert, slug) for expert in experts]
    check_routes(version.reference, stored, {expert.reference: expert.z_digest for expert in found})


def check_routes(reference: str, stored: StoredDispatcher, experts: Mapping[str, str]) -> None:
    """Refuse a dispatcher that routes to anything but the experts of a search.

    Args:
        reference: The dispatcher's.
        stored: The dispatcher.
        experts: {reference: z digest} of the search.

    Raises:
        SpecError: Names the expert.
    """
    document = stored.document
    for mixture in (*document.routes.values(), *document.tasks.values()):
        for name in mixture:
            if document.experts[name] not in experts.values():
                raise SpecError(
                    f"space.prior is {reference}, which routes to {name} of z {document.experts[name][:12]}: the "
                    f"experts of the search are {', '.join(f'{one} of z {z[:12]}' for one, z in experts.items())}",
                    f"name {name} in `experts`, or calibrate a dispatcher that routes to the search's experts alone",
                )

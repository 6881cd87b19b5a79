"""A mixture that a request names: its experts, by what they are now, mixed for this request."""

from __future__ import annotations

from collections.abc import Mapping

from zfleet.config.names import REFERENCE, Alpha
from zfleet.errors import InvalidRequest, InvalidZ, SpecError, WrongBase
from zfleet_registry import ExpertVersion
from zfleet_serve.access.context import current
from zfleet_serve.adaptive.experts import Experts, Part
from zfleet_serve.adaptive.first_pass import Route
from zfleet_serve.adaptive.names import ModelNotFound, PartNotFound, shown
from zfleet_serve.adaptive.settings import Served


async def route_of_mixture(mixture: Mapping[str, Alpha], experts: Experts, served: Served) -> Route:
    """Mix experts, once for all requests with the same z-vectors and alphas. The base never takes their place.

    Args:
        mixture: {reference: alpha}.
        experts: Finds and mixes them.
        served: The settings of the service.

    Raises:
        PartNotFound: There is no such expert.
        NotAllowed: The client's key is not for one of them.
        InvalidRequest: There are too many, or one twice, or they cannot be mixed with these alphas.
        CorruptArtifact, RegistryError: An expert cannot be loaded.
    """
    if not 1 <= len(mixture) <= served.mixture_experts:
        raise InvalidRequest(
            f"zfleet.mixture has {len(mixture)} experts",
            f"name from 1 to {served.mixture_experts}; a larger mixture can be registered as an expert of its own",
        )
    chosen: dict[str, tuple[ExpertVersion, Alpha]] = {}
    for reference, alpha in mixture.items():
        version = await _resolve(reference, experts)
        if version.reference in chosen:
            raise InvalidRequest(
                f"zfleet.mixture has {version.reference} twice, once as {shown(reference)}", "name each version once"
            )
        chosen[version.reference] = (version, alpha)
    parts = list(chosen.values())
    # One name for a mixture, in whatever order requests write it.
    ordered = sorted(parts, key=lambda part: part[0].z_digest)
    try:
        alone = len(parts) == 1 and parts[0][1] == 1.0
        z = await (experts.ready(parts[0][0]) if alone else experts.mixed(ordered))
    except (InvalidZ, SpecError, WrongBase) as error:
        raise InvalidRequest(f"zfleet.mixture cannot be mixed: {error.message}", error.remedy) from error
    return Route(
        f"{served.base}:{'+'.join(chosen)}",
        tuple(Part(version.name, version.version, alpha) for version, alpha in parts),
        None,
        z,
        None,
    )


async def _resolve(reference: str, experts: Experts) -> ExpertVersion:
    try:
        named = REFERENCE.fullmatch(reference)
        if not named:
            raise ModelNotFound(f"{shown(reference)} names no expert")
        current.get().check_named(named["name"])
        version = await experts.resolve(reference)
    except ModelNotFound as error:
        remedy = "write math, math/3 or math@champion, of an expert in the service's list of models"
        raise PartNotFound(f"zfleet.mixture: {error.message}", remedy) from error
    if version.is_dispatcher:
        raise InvalidRequest(
            f"zfleet.mixture has {shown(reference)}, a dispatcher", "mix experts; name a dispatcher as the model"
        )
    return version

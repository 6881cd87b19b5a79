"""The models of a service: the base, ``auto``, experts and dispatchers, and what they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from zfleet.config.names import AUTO, REFERENCE
from zfleet.engine.contract import BASE_Z
from zfleet.errors import RegistryError
from zfleet_registry import ExpertVersion
from zfleet_serve.access.context import current
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.adaptive.names import ModelName, ModelNotFound, parse_model, shown
from zfleet_serve.adaptive.settings import Served


@dataclass(frozen=True)
class ServedModel:
    """A name that a request's ``model`` may have.

    Attributes:
        name: Itself.
        kind: ``base``, ``auto``, ``expert``, ``mixture`` or ``dispatcher``.
        z: The digest of the z that it means; "" for ``auto`` and dispatchers, which have none of their own.
        version: What it means now; None for the base.
        versions: All versions of that expert or dispatcher, in order.
        aliases: {alias: version}, of all of them.
    """

    name: str
    kind: str
    z: str
    version: ExpertVersion | None = None
    versions: tuple[int, ...] = ()
    aliases: Mapping[str, int] | None = None

    @property
    def created(self) -> datetime | None:
        """When the version was registered."""
        return None if self.version is None else self.version.created


def named_model(model: str, base: str) -> ModelName:
    """Read a request's ``model``.

    Raises:
        ModelNotFound: It is no model of this base.
        NotAllowed: The client's key is not for it.
    """
    name = parse_model(model, base)
    if named := name.name:
        current.get().check_named(named)
    return name


class Models:
    """Lists and finds models.

    Args:
        experts: Of the base.
        served: The settings of the service.
    """

    def __init__(self, experts: Experts, served: Served) -> None:
        self._experts = experts
        self._served = served

    async def all(self) -> list[ServedModel]:
        """Return every model that the client may name, by its bare name: the base, ``auto``, then the others by name.

        Raises:
            RegistryError: The registry cannot say, and has not said before.
        """
        listed = await self._experts.listed()
        reached = await self._experts.reached() | await self._experts.reached(dispatchers=True)
        chooser = reached.get(self._chooser())
        models = [ServedModel(self._served.base, "base", BASE_Z)]
        models += [] if chooser is None else [self._described(AUTO, chooser, listed)]
        models += [self._described(name, version, listed) for name, version in sorted(reached.items())]
        may_name = current.get().may_name
        return [model for model in models if model.version is None or may_name(model.name.partition(":")[2])]

    async def find(self, model: str) -> ServedModel:
        """Return a model by any name that it may have.

        Raises:
            ModelNotFound: There is none; says which models there are.
            NotAllowed: The client's key is not for it.
            ZfleetError: The registry cannot answer.
        """
        try:
            name = named_model(model, self._served.base)
            reference = (self._served.dispatcher or self._served.classifier) if name.auto else name.expert
            if reference is None:
                return ServedModel(model, "base", BASE_Z)
            version = await self._experts.resolve(reference)
        except ModelNotFound as error:
            raise await self.unknown(model, error) from error
        listed: Sequence[ExpertVersion] = ()
        with suppress(RegistryError):
            listed = await self._experts.listed()
        _, _, bare = model.partition(":")
        return self._described(bare, version, listed)

    async def unknown(self, model: str, error: ModelNotFound) -> ModelNotFound:
        """Return the error for a model that is not there, with the names of those that are."""
        try:
            known = f"this service has: {', '.join([known.name for known in await self.all()])}"
        except RegistryError:
            known = f"this service has the base {self._served.base}, and cannot list its experts now"
        return ModelNotFound(f"model {shown(model)} does not exist: {error.message}", known)

    def _described(self, name: str, version: ExpertVersion, listed: Sequence[ExpertVersion]) -> ServedModel:
        own = {one.version: one for one in (*listed, version) if one.name == version.name}
        return ServedModel(
            f"{self._served.base}:{name}",
            AUTO if name == AUTO else version.provenance.kind,
            "" if name == AUTO else version.z_digest,
            version,
            tuple(sorted(own)),
            {alias: number for number, one in sorted(own.items()) for alias in one.aliases},
        )

    def _chooser(self) -> str:
        """Return the name of who chooses for ``auto``, without version and alias."""
        named = REFERENCE.fullmatch(self._served.dispatcher or self._served.classifier)
        return named["name"] if named else ""

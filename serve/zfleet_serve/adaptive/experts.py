"""From names in requests to z-vectors that the engine knows, through the registry."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from zfleet.config.names import CHAMPION, Alpha
from zfleet.engine.contract import Engine
from zfleet.errors import ExpertNotFound, RegistryError, UnknownZ
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertVersion, Parent, references
from zfleet_serve.adaptive.last_known import FRESH_SECONDS, NEW_SECONDS, LastKnown, begin, within
from zfleet_serve.adaptive.names import ModelNotFound, shown
from zfleet_serve.adaptive.registry_line import Registry, RegistryLine

LOAD_SECONDS = 30.0
"""How long a request waits for the file of an expert that is not loaded, while the registry answers."""
LOADED = 1024
"""z-vectors that the engine is to know; beyond that the least recently used is dropped."""
IN_USE_SECONDS = 60.0
"""For how long after a request a name is asked for again, so that the next request finds a new answer."""
_SHARE = 0.2
"""The most of the time that is spent on asking again: with many names in use, a promotion takes a little longer."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One expert of what answers.

    Attributes:
        expert: Its name.
        version: Its version.
        alpha: How strong: one number, or one per layer.
    """

    expert: str
    version: int
    alpha: Alpha


class Experts:
    """The experts of one base. What was asked for before is answered while the registry is away: see ``LastKnown``.

    Args:
        open_registry: Reaches the registry, in a thread: importing MLflow takes seconds.
        engine: Gets the z-vectors, and remembers them.
        base_slug: The base's part of experts' registered names.
        alias: Which version a bare name means.
    """

    def __init__(
        self, open_registry: Callable[[], Registry], engine: Engine, base_slug: str, alias: str = CHAMPION
    ) -> None:
        self._line = RegistryLine(open_registry)
        self._engine = engine
        self._slug = base_slug
        self._alias = alias
        self._versions: dict[str, LastKnown[ExpertVersion]] = {}
        self._listed = LastKnown(partial(self._line.ask, lambda registry: registry.list(self._slug)))
        self._loading: dict[str, asyncio.Task[ZVector]] = {}
        self._loaded: OrderedDict[str, None] = OrderedDict()
        self._asking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Ask a first question before requests come, which would not wait while MLflow is imported.

        From then on names in use are asked for in the background: requests find the answers.
        """
        with suppress(RegistryError):
            await self._listed.refreshed()
        self._asking = asyncio.create_task(self._ask_again())

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def resolve(self, reference: str) -> ExpertVersion:
        """The version that a reference means now: as ``LastKnown.get``.

        Raises:
            ModelNotFound: No such expert, version or alias of this base.
            RegistryError: The registry cannot say, and has not said before.
        """
        try:
            wanted = references.parse(reference)
            if wanted.base_slug not in (None, self._slug):
                raise ExpertNotFound(f"{reference!r} is an expert of another base than {self._slug}")
            bare = wanted.version is None and wanted.alias is None
            # The registry knows what a bare name means while nobody chose an alias: the champion, else the newest.
            full = f"{reference}@{self._alias}" if bare and self._alias != CHAMPION else reference
            return await self._version(full).get()
        except ExpertNotFound as error:
            _LOG.info("%s", error)
            raise ModelNotFound(f"there is no expert {shown(reference)}") from None

    async def ready(self, version: ExpertVersion) -> str:
        """The digest of a version's z, which the engine knows from now on.

        Raises:
            CorruptArtifact, WrongBase, RegistryError: It cannot be loaded; it is never replaced by the base.
        """
        digest = version.z_digest
        if digest not in self._loaded:
            patience = NEW_SECONDS if self._line.away else LOAD_SECONDS
            await self._engine.put_z(await within(self._load(version), patience))
            self._loaded[digest] = None
        self._loaded.move_to_end(digest)
        while len(self._loaded) > LOADED:
            with suppress(UnknownZ):
                await self._engine.drop_z(self._loaded.popitem(last=False)[0])
        return digest

    async def names(self) -> list[str]:
        """Experts that a bare name reaches, sorted.

        Raises:
            RegistryError: The registry cannot say, and has not said before.
        """
        versions = await self._listed.get()
        return sorted({one.name for one in versions if self._alias == CHAMPION or self._alias in one.aliases})

    async def _ask_again(self) -> None:
        while True:
            began = time.monotonic()
            questions: list[LastKnown[Any]] = [self._listed, *self._versions.values()]
            for question in questions:
                if question.used_within(IN_USE_SECONDS):
                    # Why there is no answer is logged where it is asked; what was known goes on.
                    await asyncio.wait([question.refreshed()])
            spent = time.monotonic() - began
            await asyncio.sleep(max(FRESH_SECONDS, spent / _SHARE) - spent)

    def _version(self, reference: str) -> LastKnown[ExpertVersion]:
        if reference not in self._versions:
            # What turned out not to exist goes, so that strangers' guesses do not add up.
            self._versions = {name: known for name, known in self._versions.items() if not known.empty}
            question = partial(self._line.ask, lambda registry: registry.resolve(reference, self._slug))
            self._versions[reference] = LastKnown(question)
        return self._versions[reference]

    def _load(self, version: ExpertVersion) -> asyncio.Task[ZVector]:
        """Load a version's z: once, for a crowd that asks for a new expert."""
        if version.z_digest not in self._loading:
            loading = begin(self._line.ask(lambda registry: registry.load(version)))
            loading.add_done_callback(lambda _: self._loading.pop(version.z_digest))
            self._loading[version.z_digest] = loading
        return self._loading[version.z_digest]


def parts_of(version: ExpertVersion) -> tuple[Part, ...]:
    """Who answers under a version: a mixture's experts with their alphas, else the expert itself."""
    parents = version.provenance.parents
    if not parents:
        return (Part(version.name, version.version, 1.0),)
    return tuple(_part(parent) for parent in parents)


def _part(parent: Parent) -> Part:
    name, _, version = parent.reference.rpartition("/")
    return Part(name, int(version), parent.alpha)

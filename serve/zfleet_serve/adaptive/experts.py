"""The experts that requests name: found in the registry, loaded, and put into the engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.names import CHAMPION, Alpha
from zfleet.engine.contract import Engine
from zfleet.errors import ExpertNotFound, RegistryError, UnknownZ
from zfleet.supervise import WorkLoop
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertVersion, Parent, references
from zfleet_serve.adaptive.last_known import FRESH_SECONDS, NEW_SECONDS, LastKnown, begin, within
from zfleet_serve.adaptive.names import ModelNotFound, shown
from zfleet_serve.adaptive.registry_line import Registry, RegistryLine
from zfleet_serve.adaptive.shares import Shares, read_shares

LOAD_SECONDS = 30.0
"""How long a request waits until an expert is loaded, while the registry answers."""
LOADED = 1024
"""The most z-vectors that the engine holds; beyond that the least recently used one is dropped."""
MIXABLE = 32
"""The most experts whose z is kept here, to be mixed."""
IN_USE_SECONDS = 60.0
"""How long after a request its name is still resolved in the background, so that requests find new answers."""
_SHARE = 0.2
"""The largest share of time for that: with many names in use, a promotion takes effect a little later."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One expert of an answer's z.

    Attributes:
        expert: Its name.
        version: Its version.
        alpha: Its alpha: one number, or one per layer.
    """

    expert: str
    version: int
    alpha: Alpha


_Content = tuple[str, str]
"""A version, qualified by its base, and the digest of its z."""
Mixed = tuple[tuple[str, Alpha], ...]
"""(z digest, alpha) of each expert of a mixture."""


class Experts:
    """The experts and dispatchers of one base.

    Names that were resolved before stay usable while the registry is away (``LastKnown``).

    Args:
        open_registry: Opens the registry. It is called in a thread: importing MLflow takes seconds.
        engine: Gets the z-vectors, and remembers them.
        base_slug: The base's part of experts' registered names.
        alias: The alias that a bare name means.
    """

    def __init__(
        self, open_registry: Callable[[], Registry], engine: Engine, base_slug: str, alias: str = CHAMPION
    ) -> None:
        self._line = RegistryLine(open_registry)
        self._engine = engine
        self._slug = base_slug
        self._alias = alias
        self._shares: dict[str, LastKnown[Shares]] = {}
        self._listed = LastKnown(partial(self._line.ask, lambda registry: registry.list(self._slug)))
        self._loading: dict[_Content, asyncio.Task[ZVector]] = {}
        # Every version is loaded once itself: another one with the same z may be signed, or whole, when it is not.
        self._verified: set[_Content] = set()
        # What the engine holds, by digest; the values mean nothing.
        self._loaded: OrderedDict[str, None] = OrderedDict()
        # Bounded by itself: any number of mixtures round to one z.
        self._mixtures: OrderedDict[Mixed, str] = OrderedDict()
        self._mixable: OrderedDict[str, ZVector] = OrderedDict()
        # No request waits for this loop: an error ends none of them.
        self._loop = WorkLoop("resolving experts in the background", self._refresh_all, lambda _: None)

    async def open(self) -> None:
        """Ask the registry a first time before requests come: they would not wait while MLflow is imported.

        From then on names in use are resolved in the background, and requests find the answers.
        """
        with suppress(RegistryError):
            await within(self._listed.refreshed(), LOAD_SECONDS)
        self._loop.wake()

    def check(self) -> None:
        """Check that names are resolved in the background.

        Raises:
            EngineError: The loop is dead, keeps failing, or was stopped.
        """
        self._loop.check()

    async def close(self) -> None:
        """Ask the registry no more."""
        await self._loop.stop()

    async def resolve(self, reference: str, user: str | None = None) -> ExpertVersion:
        """Return the version that a reference means now. As ``LastKnown.get``.

        Args:
            reference: A name, a version or an alias.
            user: Who asks: where several aliases share the traffic of a bare name, a user stays with one of them.

        Raises:
            ModelNotFound: No such expert, version or alias of this base.
            RegistryError: The registry cannot say, and has not said before.
        """
        return (await self._shares_of(reference)).version_for(user)

    async def shadow(self, reference: str) -> ExpertVersion | None:
        """Return the version that answers copies of a reference's requests, which nobody sees. As ``resolve``."""
        return (await self._shares_of(reference)).shadow

    async def ready(self, version: ExpertVersion) -> str:
        """Load a version's z if the engine does not know it, and return its digest.

        Raises:
            CorruptArtifact, WrongBase, RegistryError: It cannot be loaded. The base never takes its place.
        """
        if version.z_digest not in self._loaded or _content(version) not in self._verified:
            await self._put(await self._loaded_z(version))
        return await self._used(version.z_digest)

    async def mixed(self, parts: Sequence[tuple[ExpertVersion, Alpha]]) -> str:
        """Mix experts if the engine does not know the mixture, and return its digest.

        Args:
            parts: The experts, each with its alpha.

        Raises:
            CorruptArtifact, WrongBase, RegistryError: An expert cannot be loaded. The base never takes its place.
        """
        mixed: Mixed = tuple((version.z_digest, alpha) for version, alpha in parts)
        unverified = any(_content(version) not in self._verified for version, _ in parts)
        if unverified or self._mixtures.get(mixed) not in self._loaded:
            zs = [await self._mixable_z(version) for version, _ in parts]
            # In a thread: other requests need not wait for millions of numbers.
            z = await asyncio.to_thread(mix, zs, [alpha for _, alpha in parts])
            await self._put(z)
            self._mixtures[mixed] = z.digest
        self._mixtures.move_to_end(mixed)
        digest = self._mixtures[mixed]
        while len(self._mixtures) > LOADED:
            self._mixtures.popitem(last=False)
        return await self._used(digest)

    async def load_dispatcher(self, version: ExpertVersion) -> StoredDispatcher:
        """Load a dispatcher.

        Raises:
            CorruptArtifact, RegistryError: It cannot be loaded.
        """
        patience = NEW_SECONDS if self._line.away else LOAD_SECONDS
        return await within(begin(self._line.ask(lambda registry: registry.load_dispatcher(version))), patience)

    async def listed(self) -> Sequence[ExpertVersion]:
        """Return all versions of all experts and dispatchers of the base.

        Raises:
            RegistryError: The registry cannot say, and has not said before.
        """
        return await self._listed.get()

    async def reached(self, dispatchers: bool = False) -> dict[str, ExpertVersion]:
        """Return the experts that a bare name reaches: {name: version}, sorted by name.

        Args:
            dispatchers: Return dispatchers instead.

        Raises:
            RegistryError: The registry cannot say, and has not said before.
        """
        reached: dict[str, ExpertVersion] = {}
        wanted = [version for version in await self.listed() if version.is_dispatcher == dispatchers]
        for version in sorted(wanted, key=lambda version: (version.name, version.version)):
            # Without an alias of its own, a name means its newest version, unless another alias was asked for.
            known = reached.get(version.name)
            if self._alias in version.aliases or (
                self._alias == CHAMPION and (known is None or self._alias not in known.aliases)
            ):
                reached[version.name] = version
        return reached

    async def _refresh_all(self) -> bool:
        began = time.monotonic()
        questions: list[LastKnown[Any]] = [self._listed, *self._shares.values()]
        for question in questions:
            if question.used_within(IN_USE_SECONDS):
                # An error is logged where the question is asked. A question that hangs must not hold up the others.
                await asyncio.wait([question.refreshed()], timeout=NEW_SECONDS)
        self._loop.count_success()
        spent = time.monotonic() - began
        await asyncio.sleep(max(FRESH_SECONDS, spent / _SHARE) - spent)
        return True

    async def _shares_of(self, reference: str) -> Shares:
        try:
            parsed = references.parse(reference)
            if parsed.base_slug not in (None, self._slug):
                raise ExpertNotFound(f"{reference!r} is an expert of another base than {self._slug}")
            bare = parsed.version is None and parsed.alias is None
            # A service of another alias has that one alone: shares are those of the champion's traffic.
            full = f"{reference}@{self._alias}" if bare and self._alias != CHAMPION else reference
            return await self._known(full).get()
        except ExpertNotFound as error:
            _LOG.info("%s", error)
            raise ModelNotFound(f"there is no expert {shown(reference)}") from None

    def _known(self, reference: str) -> LastKnown[Shares]:
        if reference not in self._shares:
            # Forget names that do not exist, so that strangers' guesses do not add up.
            self._shares = {name: known for name, known in self._shares.items() if not known.empty}
            question = partial(self._line.ask, lambda registry: read_shares(registry, reference, self._slug))
            self._shares[reference] = LastKnown(question)
        return self._shares[reference]

    async def _loaded_z(self, version: ExpertVersion) -> ZVector:
        return await within(self._load(version), NEW_SECONDS if self._line.away else LOAD_SECONDS)

    async def _mixable_z(self, version: ExpertVersion) -> ZVector:
        digest = version.z_digest
        if digest not in self._mixable or _content(version) not in self._verified:
            self._mixable[digest] = await self._loaded_z(version)
        self._mixable.move_to_end(digest)
        while len(self._mixable) > MIXABLE:
            self._mixable.popitem(last=False)
        return self._mixable[digest]

    async def _put(self, z: ZVector) -> None:
        await self._engine.put_z(z)
        self._loaded[z.digest] = None

    async def _used(self, digest: str) -> str:
        """Note that a z is used now, and drop those that were not for the longest time."""
        self._loaded.move_to_end(digest)
        while len(self._loaded) > LOADED:
            oldest, _ = self._loaded.popitem(last=False)
            with suppress(UnknownZ):
                await self._engine.drop_z(oldest)
        return digest

    def _load(self, version: ExpertVersion) -> asyncio.Task[ZVector]:
        """Load a version's z, once for all requests that wait for it."""
        content = _content(version)
        if content not in self._loading:
            loading = begin(self._verified_z(version))
            loading.add_done_callback(lambda _: self._loading.pop(content))
            self._loading[content] = loading
        return self._loading[content]

    async def _verified_z(self, version: ExpertVersion) -> ZVector:
        z = await self._line.ask(lambda registry: registry.load(version))
        self._verified.add(_content(version))
        return z


def _content(version: ExpertVersion) -> _Content:
    return version.qualified, version.z_digest


def parts_of(version: ExpertVersion) -> tuple[Part, ...]:
    """Return the experts of a version: those of a mixture with their alphas, or else the expert itself."""
    provenance = version.provenance
    # An expert that began at another version has it as its parent, and is no mixture of it.
    if provenance.kind != "mixture":
        return (Part(version.name, version.version, 1.0),)
    return tuple(_part(parent) for parent in provenance.parents)


def _part(parent: Parent) -> Part:
    name, _, version = parent.reference.rpartition("/")
    return Part(name, int(version), parent.alpha)

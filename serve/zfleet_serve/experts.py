"""From names in requests to z-vectors that the engine knows, through the registry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from zfleet.errors import ExpertNotFound
from zfleet.svf.mixture import Alpha
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertVersion, Parent
from zfleet_serve.lasting_engine import LastingEngine

CHAMPION = "champion"
FRESH_SECONDS = 1.0
"""How old an answer of the registry may be: a promoted alias takes effect within this time."""

T = TypeVar("T")


class Registry(Protocol):
    """What serving needs of an ``ExpertRegistry``; its calls block."""

    def resolve(self, reference: str, base_slug: str | None = None) -> ExpertVersion: ...

    def load(self, version: ExpertVersion) -> ZVector: ...

    def list(self, base_slug: str | None = None) -> list[ExpertVersion]: ...


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
    """The experts of one base.

    Args:
        open_registry: Reaches the registry, in a thread and on first use: importing MLflow takes seconds.
        engine: Gets the z-vectors.
        base_slug: The base's part of experts' registered names.
        alias: Which version a bare name means.
    """

    def __init__(
        self, open_registry: Callable[[], Registry], engine: LastingEngine, base_slug: str, alias: str = CHAMPION
    ) -> None:
        self._open_registry = open_registry
        self._engine = engine
        self._slug = base_slug
        self._alias = alias
        self._registry: Registry | None = None
        self._versions: dict[str, tuple[float, ExpertVersion]] = {}
        self._listed: tuple[float, list[ExpertVersion]] | None = None
        self._opening = asyncio.Lock()
        self._loading = asyncio.Lock()

    async def resolve(self, reference: str) -> ExpertVersion:
        """The version that a reference means now, ``FRESH_SECONDS`` at most ago.

        Raises:
            ExpertNotFound: No such expert, version or alias of this base.
            RegistryError: The registry cannot say.
        """
        known = self._versions.get(reference)
        if known is not None and _is_fresh(known[0]):
            return known[1]
        bare = "@" not in reference and "/" not in reference
        # The registry knows what a bare name means while nobody chose an alias: the champion, else the newest.
        full = f"{reference}@{self._alias}" if bare and self._alias != CHAMPION else reference
        version = await self._ask(lambda registry: registry.resolve(full, self._slug))
        if version.base_slug != self._slug:
            raise ExpertNotFound(f"{reference!r} is an expert of base {version.base_slug}, not of {self._slug}")
        self._versions[reference] = (time.monotonic(), version)
        return version

    async def ready(self, version: ExpertVersion) -> str:
        """The digest of a version's z, which the engine knows from now on.

        Raises:
            CorruptArtifact, WrongBase, RegistryError: It cannot be loaded; it is never replaced by the base.
        """
        if not self._engine.holds(version.z_digest):
            # One at a time: a crowd that asks for a new expert loads it once.
            async with self._loading:
                if not self._engine.holds(version.z_digest):
                    await self._engine.put_z(await self._ask(lambda registry: registry.load(version)))
        return version.z_digest

    async def names(self) -> list[str]:
        """Experts that a bare name reaches, sorted."""
        if self._listed is None or not _is_fresh(self._listed[0]):
            versions = await self._ask(lambda registry: registry.list(self._slug))
            self._listed = (time.monotonic(), versions)
        reachable = {
            version.name for version in self._listed[1] if self._alias == CHAMPION or self._alias in version.aliases
        }
        return sorted(reachable)

    async def _ask(self, question: Callable[[Registry], T]) -> T:
        if self._registry is None:
            async with self._opening:
                if self._registry is None:
                    self._registry = await asyncio.to_thread(self._open_registry)
        registry = self._registry
        return await asyncio.to_thread(question, registry)


def parts_of(version: ExpertVersion) -> tuple[Part, ...]:
    """Who answers under a version: a mixture's experts with their alphas, else the expert itself."""
    parents = version.provenance.parents
    if not parents:
        return (Part(version.name, version.version, 1.0),)
    return tuple(_part(parent) for parent in parents)


def _part(parent: Parent) -> Part:
    name, _, version = parent.reference.rpartition("/")
    return Part(name, int(version), parent.alpha)


def _is_fresh(since: float) -> bool:
    return time.monotonic() - since < FRESH_SECONDS

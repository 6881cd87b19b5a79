"""Has an engine whose linears are approximate choose its directions for the experts that are served."""

from __future__ import annotations

import logging

from zfleet.engine.contract import Engine
from zfleet.errors import CorruptArtifact, WrongBase
from zfleet.supervise import WorkLoop
from zfleet_serve.adaptive.experts import LOADED, Experts

_LOG = logging.getLogger(__name__)


class DirectionsForExperts:
    """Has the engine choose once, in the background, as soon as registry and engine answer; then only when asked.

    Until then the engine computes every expert exactly, and later those that its directions do not fit.
    """

    def __init__(self, experts: Experts, engine: Engine) -> None:
        """Prepare. ``experts`` gives its z to the same engine."""
        self._experts = experts
        self._engine = engine
        # No request waits for this loop: an error ends none of them.
        self._loop = WorkLoop("choosing the engine's directions", self._choose_first, lambda _: None)

    def start(self) -> None:
        """Choose in the background, and try again until it succeeds."""
        self._loop.wake()

    async def stop(self) -> None:
        """Choose no more."""
        await self._loop.stop()

    async def choose(self, again: bool) -> int:
        """Have the engine choose for all experts that a bare name reaches: at most as many as it holds.

        Args:
            again: See ``Engine.choose_directions``.

        Returns:
            For how many experts. With none, nothing is chosen.

        Raises:
            RegistryError, EngineError: The registry or the engine does not answer.
        """
        digests: list[str] = []
        for version in list((await self._experts.reached()).values())[:LOADED]:
            try:
                digests.append(await self._experts.ready(version))
            except (CorruptArtifact, WrongBase) as error:
                _LOG.error("no directions are chosen for %s: %s", version.reference, error)
        if digests:
            await self._engine.choose_directions(digests, again)
        return len(digests)

    async def _choose_first(self) -> bool:
        await self.choose(again=False)
        self._loop.count_success()
        return False

"""A client's line to one member: calls, and what becomes of them when the member dies and is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from ray.exceptions import RayError, RayTaskError

from zfleet.errors import EngineError, ZfleetError
from zfleet_cluster.errors import original
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_cluster.fleet.host import NotOpen
from zfleet_cluster.fleet.replica import Result, Work

WHO = "a member of the engine pool"
BACK_SECONDS = 600
"""How long a member may take to come back; it opens its base again."""


class MemberLost(EngineError):
    """The member died or cannot be reached; Ray starts it again."""


class Line:
    """Calls one member.

    Attributes:
        load: Answers that this client waits for.
        up: Whether the member answered last time.

    Args:
        member: Actor handle of a ``Member``.
        shipped: The base, for a member that was started again.
    """

    def __init__(self, member: Any, shipped: ShippedBase) -> None:
        self.load = 0
        self._member = member
        self._shipped = shipped
        self._coming_back: asyncio.Task[ZfleetError | None] | None = None

    @property
    def up(self) -> bool:
        return self._coming_back is None

    async def call(self, method: str, *arguments: object) -> Any:
        """One call; waits first where the member is known to be away.

        Raises:
            MemberLost: It died during the call, or did not come back.
            ZfleetError: What the member raised.
        """
        await self.ready()
        try:
            return await getattr(self._member, method).remote(*arguments)
        except RayError as error:
            raise self._lost(error) from None

    def stop(self, name: str) -> None:
        """As ``Member.stop``, and wait for nothing."""
        self._member.stop.options(num_returns=0).remote(name)

    async def work(
        self, client: str, batch: Sequence[tuple[str, Work]]
    ) -> AsyncGenerator[list[tuple[int, Result]], None]:
        """As ``Member.work``, at once: who asks has waited until the line is ``ready``.

        Raises:
            MemberLost, ZfleetError: As for ``call``.
        """
        try:
            async for message in self._member.work.options(num_returns="streaming").remote(client, batch):
                yield await message
        except RayError as error:
            raise self._lost(error) from None

    def hang_up(self) -> None:
        """Wait no longer for a member that is away: who waits for it is told that the engine is closed."""
        if self._coming_back is not None:
            self._coming_back.cancel()

    def _lost(self, error: RayError) -> ZfleetError:
        """What to raise for an error of Ray's; where the member died, wait for its return from now on."""
        raised = original(error, WHO)
        if isinstance(error, RayTaskError) and not isinstance(raised, NotOpen):
            return raised
        if self._coming_back is None:
            self._coming_back = asyncio.create_task(self._come_back())
        return MemberLost(
            f"{WHO} died with the request: {raised.message}",
            "send the request again: the member is started again by itself",
        )

    async def _come_back(self) -> ZfleetError | None:
        """Until the member has opened its engine; why it has not, where it is certain that it will not."""
        try:
            # Ray asks again until the actor runs, and gives up where it ended for good.
            opening = self._member.open.options(max_task_retries=-1).remote(self._shipped)
            await asyncio.wait_for(opening, BACK_SECONDS)
        except RayError as error:
            return original(error, WHO)
        except TimeoutError:
            return EngineError(f"{WHO} died and did not come back in {BACK_SECONDS} s", "start the job again")
        finally:
            self._coming_back = None
        return None

    async def ready(self) -> None:
        """Wait for a member that is known to be away.

        Raises:
            ZfleetError: Why it does not come back.
        """
        coming_back = self._coming_back
        if coming_back is None:
            return
        # Unlike awaiting it, this neither ends the waiting of others nor takes its cancellation for the caller's.
        await asyncio.wait([coming_back])
        error = closed() if coming_back.cancelled() else coming_back.result()
        if error is not None:
            raise error


def closed() -> EngineError:
    """What every call of a closed client raises."""
    return EngineError("the engine is closed", "open another one and send the request again")

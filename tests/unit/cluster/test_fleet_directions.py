"""Every replica chooses its directions after it knows the z, also one that joins later, and says what it leaves out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from zfleet.errors import EngineError, UnknownZ
from zfleet.testing.fake_engine import FakeEngine, fake_z
from zfleet_cluster.testing import linked, local_fleet


class Choosing(FakeEngine):
    """An engine that notes what it is asked to choose for.

    Attributes:
        choices: Digests and ``again`` of each call.
        error: What it leaves out of every z.
        refusal: Raised by ``choose_directions``.
    """

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.choices: list[tuple[tuple[str, ...], bool]] = []
        self.error = error
        self.refusal: Exception | None = None

    async def choose_directions(self, digests: Sequence[str], again: bool = False) -> None:
        assert self._known.issuperset(digests), "it was asked before it knew the z"
        if self.refusal is not None:
            raise self.refusal
        self.choices.append((tuple(digests), again))

    async def truncation_errors(self) -> dict[str, float]:
        return dict.fromkeys(self._known, self.error)


async def test_every_replica_chooses_and_one_that_joins_for_what_is_still_held() -> None:
    engines = [Choosing(), Choosing(), Choosing()]
    async with local_fleet(engines[:2]) as (replicas, client):
        digests = [await client.put_z(fake_z(seed)) for seed in range(2)]
        await client.choose_directions(digests)
        await client.choose_directions(digests, again=True)
        async with asyncio.timeout(10):
            while len(engines[0].choices) + len(engines[1].choices) < 4:
                await asyncio.sleep(0.01)
        assert engines[0].choices == engines[1].choices == [(tuple(digests), False), (tuple(digests), True)]
        await client.drop_z(digests[0])
        await replicas.start(engines[2])
        await linked(client, 3)
        async with asyncio.timeout(10):
            while not engines[2].choices:
                await asyncio.sleep(0.01)
        assert engines[2].choices == [((digests[1],), False)]


async def test_the_largest_error_of_any_replica_is_told() -> None:
    async with local_fleet([Choosing(1e-4), Choosing(2e-4)]) as (_, client):
        z = fake_z(1)
        await client.put_z(z)
        async with asyncio.timeout(10):
            while await client.truncation_errors() != {z.digest: 2e-4}:  # until both know it
                await asyncio.sleep(0.01)


async def test_a_choice_for_an_unknown_z_or_that_fails_everywhere_is_an_error() -> None:
    engine = Choosing()
    async with local_fleet([engine]) as (_, client):
        with pytest.raises(UnknownZ):
            await client.choose_directions([fake_z(1).digest])
        digest = await client.put_z(fake_z(1))
        engine.refusal = EngineError("the worker failed")
        with pytest.raises(EngineError, match="the worker failed"):
            await client.choose_directions([digest])


async def test_an_exact_engine_leaves_nothing_out() -> None:
    async with local_fleet([FakeEngine()]) as (_, client):
        digest = await client.put_z(fake_z(1))
        await client.choose_directions([digest])
        assert await client.truncation_errors() == {}

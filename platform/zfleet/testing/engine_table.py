"""The contract on z: which z are known, which are refused, and under which z a request is answered."""

from __future__ import annotations

import asyncio

import pytest
import torch

from zfleet.engine.contract import BASE_Z, GenerationRequest, ScoreRequest
from zfleet.errors import InvalidZ, UnknownZ, WrongBase
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_harness import EngineHarness, greedy, put_all, run, run_all, sampled

_LONG = 200
"""Seconds after which a request that waits for ever fails its test; no bound on speed."""


class TableConformance(EngineHarness):
    """Every request is answered under its own z, whatever the table holds."""

    async def test_put_z_is_idempotent_and_names_the_digest(self) -> None:
        z = self.make_z(1)
        async with self.engine() as engine:
            assert await engine.put_z(z) == z.digest
            assert await engine.put_z(self.make_z(1)) == z.digest
            assert (await engine.stats()).known_z == 1

    async def test_the_base_is_always_known(self) -> None:
        async with self.engine(z_rows=2) as engine:
            before = await run(engine, greedy(self.prompts[0]))
            for seed in range(3):
                await run(engine, greedy(self.prompts[0], await engine.put_z(self.make_z(seed))))
            after = await run(engine, greedy(self.prompts[0], BASE_Z))
        assert before == after

    async def test_z_changes_answers(self) -> None:
        async with self.engine() as engine:
            digests = await put_all(engine, [self.make_z(seed) for seed in range(4)])
            answers = await run_all(engine, [sampled(self.prompts[0], 1, z) for z in [BASE_Z, *digests]])
        assert len({answer.token_ids for answer in answers}) == 5, "make_z must give vectors that change answers"

    async def test_every_piece_of_an_answer_names_its_z(self) -> None:
        async with self.engine(z_rows=2) as engine:
            for digest in (BASE_Z, *await put_all(engine, [self.make_z(seed) for seed in range(3)])):
                chunks = [chunk async for chunk in engine.generate(greedy(self.prompts[0], digest))]
                assert {chunk.z_digest for chunk in chunks} == {digest}

    async def test_an_unknown_z_is_refused(self) -> None:
        async with self.engine() as engine:
            with pytest.raises(UnknownZ):
                await run(engine, greedy(self.prompts[0], "0" * 64))
            with pytest.raises(UnknownZ):
                await engine.score(ScoreRequest(self.prompts[0], self.prompts[1], "0" * 64))
            with pytest.raises(UnknownZ):
                await engine.drop_z("0" * 64)

    async def test_a_dropped_z_is_unknown_until_put_again(self) -> None:
        z = self.make_z(1)
        async with self.engine() as engine:
            digest = await engine.put_z(z)
            before = await run(engine, greedy(self.prompts[0], digest))
            await engine.drop_z(digest)
            with pytest.raises(UnknownZ):
                await run(engine, greedy(self.prompts[0], digest))
            await engine.put_z(z)
            assert await run(engine, greedy(self.prompts[0], digest)) == before

    async def test_a_z_of_another_base_or_other_factors_is_refused(self) -> None:
        z = self.make_z(1)
        async with self.engine() as engine:
            with pytest.raises(WrongBase):
                await engine.put_z(ZVector(z.values, "f" * 64, z.factors, z.targets))
            with pytest.raises(WrongBase):
                await engine.put_z(ZVector(z.values, z.base, "f" * 64, z.targets))
            assert (await engine.stats()).known_z == 0

    async def test_a_z_of_other_shapes_is_refused(self) -> None:
        z = self.make_z(1)
        name = next(iter(z.values))
        missing = {other: value for other, value in z.values.items() if other != name}
        too_long = {**z.values, name: torch.ones(z.values[name].numel() + 1)}
        async with self.engine() as engine:
            for values in (missing, too_long, {**z.values, "no.such.matrix": torch.ones(2)}):
                with pytest.raises(InvalidZ):
                    await engine.put_z(ZVector(values, z.base, z.factors, z.targets))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    async def test_a_z_that_is_not_finite_is_refused(self, bad: float) -> None:
        z = self.make_z(1)
        name = next(iter(z.values))
        async with self.engine() as engine:
            # Damaged after its construction, which would refuse it.
            z.values[name][0] = bad
            with pytest.raises(InvalidZ):
                await engine.put_z(z)

    async def test_a_small_table_serves_many_z(self) -> None:
        """With more z in flight than rows, each request waits for a row and is answered under its own z."""
        zs = [self.make_z(seed) for seed in range(6)]
        async with self.engine(z_rows=8) as engine:
            requests = self._all_pairs([BASE_Z, *await put_all(engine, zs)])
            expected = [await run(engine, request) for request in requests]
        async with self.engine(z_rows=3) as engine:
            await put_all(engine, zs)
            answers = await run_all(engine, requests)
            stats = await engine.stats()
        assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
        assert stats.known_z == 6
        assert stats.resident_z <= 2

    async def test_evicted_z_come_back(self) -> None:
        async with self.engine(z_rows=2) as engine:
            first, second = await put_all(engine, [self.make_z(1), self.make_z(2)])
            answers = [await run(engine, sampled(self.prompts[0], 1, z)) for z in (first, second, first, second)]
        assert answers[:2] == answers[2:]
        assert answers[0] != answers[1]

    async def test_dropping_a_z_in_use_lets_its_request_finish(self) -> None:
        async with self.engine(z_rows=2) as engine:
            digest = await engine.put_z(self.make_z(1))
            running = sampled(self.prompts[0], 1, digest, max_tokens=32)
            expected = await run(engine, running)
            stream = engine.generate(GenerationRequest(running.prompt, running.sampling, digest, stream=True))
            tokens = list((await anext(aiter(stream))).token_ids)
            await engine.drop_z(digest)
            other = await engine.put_z(self.make_z(2))
            waiting = asyncio.create_task(run(engine, sampled(self.prompts[0], 1, other)))
            async for chunk in stream:
                tokens.extend(chunk.token_ids)
            assert tuple(tokens) == expected.token_ids
            assert (await waiting).token_ids != expected.token_ids[:12]

    async def test_a_z_that_waits_for_a_row_gets_its_turn(self) -> None:
        """However many later requests use the z that has the row."""
        async with self.engine(z_rows=2, slots=4) as engine:
            busy, late = await put_all(engine, [self.make_z(1), self.make_z(2)])
            served = asyncio.Event()

            async def keep_busy(tokens: int) -> None:
                # Answers of different lengths, so that the row is never free by chance.
                while not served.is_set():
                    await run(engine, sampled(self.prompts[0], 1, busy, max_tokens=tokens))

            clients = [asyncio.create_task(keep_busy(tokens)) for tokens in (17, 24, 31)]
            await self._until(engine, running=3)
            await asyncio.wait_for(run(engine, sampled(self.prompts[1], 1, late)), timeout=_LONG)
            await asyncio.wait_for(engine.score(ScoreRequest(self.prompts[0], self.prompts[1], late)), timeout=_LONG)
            served.set()
            await asyncio.gather(*clients)

    async def test_scores_are_under_their_own_z(self) -> None:
        zs = [self.make_z(seed) for seed in range(4)]
        async with self.engine(z_rows=3) as engine:
            digests = [BASE_Z, *await put_all(engine, zs)]
            requests = [ScoreRequest(self.prompts[0], self.prompts[1], z) for z in digests]
            together = await asyncio.gather(*(engine.score(request) for request in requests))
            alone = [await engine.score(request) for request in requests]
        for crowded, solitary in zip(together, alone, strict=True):
            assert crowded == pytest.approx(solitary, abs=1e-4)
        assert len({tuple(round(value, 3) for value in score) for score in alone}) == 5

    def _all_pairs(self, digests: list[str]) -> list[GenerationRequest]:
        return [sampled(prompt, 11, z) for prompt in self.prompts[:2] for z in digests]

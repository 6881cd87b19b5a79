"""The engine contract as tests: every engine inherits ``EngineConformance`` and passes all of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from zfleet.engine.contract import Engine, GenerationRequest, HiddenRequest, ScoreRequest, collect
from zfleet.errors import EngineError, InvalidRequest, RequestAborted, RequestTooLong
from zfleet.testing.engine_harness import greedy, put_all, run, run_all, sampled
from zfleet.testing.engine_logprobs import LogprobsConformance
from zfleet.testing.engine_penalties import PenaltiesConformance
from zfleet.testing.engine_sampling import SamplingConformance
from zfleet.testing.engine_scores import ScoresConformance
from zfleet.testing.engine_table import TableConformance

__all__ = ["EngineConformance"]


class EngineConformance(
    SamplingConformance, LogprobsConformance, PenaltiesConformance, ScoresConformance, TableConformance
):
    """Give ``prompts``, ``make_engine`` and ``make_z`` (see ``EngineHarness``) in a class named ``Test...``."""

    async def test_abort_ends_one_request_alone(self) -> None:
        async with self.engine() as engine:
            expected = await run(engine, sampled(self.prompts[1], 1))
            other = asyncio.create_task(run(engine, sampled(self.prompts[1], 1)))
            request = self._long()
            stream = engine.generate(request)
            await anext(aiter(stream))
            await engine.abort(request.request_id)
            with pytest.raises(RequestAborted):
                async for _ in stream:
                    pass
            assert await other == expected
            await self._idle(engine)

    @pytest.mark.parametrize("turns", range(1, 6))
    async def test_abort_holds_from_the_first_moment(self, turns: int) -> None:
        """Also while the prompt runs, between waiting and running."""
        async with self.engine() as engine:
            request = self._long()
            reader = asyncio.create_task(collect(engine, request))
            for _ in range(turns):
                await asyncio.sleep(0)
            await engine.abort(request.request_id)
            with pytest.raises(RequestAborted):
                await reader
            await self._idle(engine)

    async def test_an_image_without_a_place_is_refused(self) -> None:
        """An engine never drops an image silently, whether its base takes images or not."""
        async with self.engine() as engine:
            request = replace(self._long(), images=(b"image",))
            with pytest.raises(InvalidRequest, match="image"):
                await run(engine, request)
            with pytest.raises(InvalidRequest, match="image"):
                await engine.score(ScoreRequest(self.prompts[0], self.prompts[1], images=(b"image",)))
            with pytest.raises(InvalidRequest, match="image"):
                await engine.hidden_state(HiddenRequest(self.prompts[0], images=(b"image",)))

    async def test_a_score_that_makes_no_sense_fails_alone(self) -> None:
        async with self.engine() as engine:
            expected = await run(engine, sampled(self.prompts[0], 1))
            bad = ScoreRequest(self.prompts[0], (10**9,))
            results = await asyncio.gather(
                run(engine, sampled(self.prompts[0], 1)), engine.score(bad), return_exceptions=True
            )
        assert results[0] == expected
        assert isinstance(results[1], InvalidRequest)

    async def test_abort_ends_all_answers_of_a_waiting_request(self) -> None:
        async with self.engine(slots=1) as engine:
            holding = asyncio.create_task(run(engine, self._long()))
            request = replace(sampled(self.prompts[0], 1, n=3), request_id="waits")
            waiting = asyncio.create_task(collect(engine, request))
            await self._until(engine, waiting=1)
            await engine.abort("waits")
            with pytest.raises(RequestAborted):
                await waiting
            assert (await holding).finish_reason == "length"

    async def test_aborting_nothing_is_no_error(self) -> None:
        async with self.engine() as engine:
            await engine.abort("no such request")

    async def test_a_consumer_that_leaves_ends_its_request(self) -> None:
        async with self.engine(slots=1) as engine:
            reader = asyncio.create_task(collect(engine, self._long()))
            await self._until(engine, running=1)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await run(engine, greedy(self.prompts[0]))
            await self._idle(engine)

    async def test_a_request_too_long_fails_alone(self) -> None:
        async with self.engine() as engine:
            good = [sampled(prompt, 1) for prompt in self.prompts]
            expected = await run_all(engine, good)
            bad = [greedy(self.prompts[0], max_tokens=10**7), greedy(self.prompts[0] * 100_000)]
            results = await asyncio.gather(*(run(engine, r) for r in [*bad, *good]), return_exceptions=True)
        assert [type(result) for result in results[:2]] == [RequestTooLong, RequestTooLong]
        assert results[2:] == expected

    async def test_prompt_and_answer_may_fill_max_length(self) -> None:
        async with self.engine() as engine:
            most = engine.max_length - len(self.prompts[0])
            with pytest.raises(RequestTooLong):
                await run(engine, greedy(self.prompts[0], max_tokens=most + 1))
            request = replace(greedy(self.prompts[0], max_tokens=most), stream=True)
            stream = engine.generate(request)
            await anext(aiter(stream))
            await engine.abort(request.request_id)
            with pytest.raises(RequestAborted):
                async for _ in stream:
                    pass

    async def test_an_engine_is_healthy_until_it_is_closed(self) -> None:
        async with self.engine(slots=1) as engine:
            await engine.check_health()
            working = asyncio.create_task(run(engine, self._long()))
            await self._until(engine, running=1)
            await engine.check_health()
            with pytest.raises(RequestTooLong):
                await run(engine, greedy(self.prompts[0], max_tokens=10**7))
            await working
            await engine.check_health()
            await engine.close()
            with pytest.raises(EngineError):
                await engine.check_health()

    async def test_more_requests_than_slots_all_finish(self) -> None:
        async with self.engine(slots=2) as engine:
            requests = [sampled(prompt, seed) for prompt in self.prompts for seed in range(4)]
            crowded = await run_all(engine, requests)
            alone = [await run(engine, request) for request in requests[:4]]
        assert crowded[:4] == alone

    async def test_stats_count_what_happened(self) -> None:
        async with self.engine(z_rows=5, slots=8) as engine:
            assert (await engine.stats()).table_rows == 5
            digests = await put_all(engine, [self.make_z(seed) for seed in range(3)])
            answers = await run_all(engine, [sampled(self.prompts[0], 1, z, max_tokens=24) for z in digests * 2])
            await self._idle(engine)
            stats = await engine.stats()
        assert stats.known_z == 3
        assert stats.resident_z == 3
        assert stats.generated_tokens == sum(len(answer.token_ids) for answer in answers)
        assert 2 <= stats.peak_batch <= 8
        assert 2 <= stats.peak_distinct_z <= stats.peak_batch

    async def test_close_ends_what_runs_and_can_be_repeated(self) -> None:
        async with self.engine(slots=1) as engine:
            pending = [asyncio.create_task(run(engine, self._long())) for _ in range(3)]
            await self._until(engine, running=1)
            await engine.close()
            results = await asyncio.gather(*pending, return_exceptions=True)
            await engine.close()
            with pytest.raises(EngineError):
                await run(engine, greedy(self.prompts[0]))
        assert all(isinstance(result, EngineError) for result in results)

    def _long(self) -> GenerationRequest:
        return replace(greedy(self.prompts[0], max_tokens=self.long_tokens), stream=True)

    async def _idle(self, engine: Engine) -> None:
        await self._until(engine, running=0, waiting=0)

"""The contract on sampling: seeds, lengths, stop strings, streams."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zfleet.engine.contract import Chunk, GenerationRequest, SamplingParams, collect
from zfleet.errors import InvalidRequest
from zfleet.testing.engine_harness import EngineHarness, greedy, run, run_all, sampled


class SamplingConformance(EngineHarness):
    """The answer of a request, alone and among others."""

    async def test_same_seed_same_answer_alone_and_in_a_crowd(self) -> None:
        async with self.engine(slots=4) as engine:
            z = await engine.put_z(self.make_z(1))
            mine = sampled(self.prompts[0], 7, z)
            alone = await run(engine, mine)
            crowd = [sampled(prompt, seed) for seed, prompt in enumerate(self.prompts)]
            first, *_ = await run_all(engine, [replace(mine, request_id="first"), *crowd])
            again = [replace(request, request_id=f"again-{i}") for i, request in enumerate(crowd)]
            *_, last = await run_all(engine, [*again, replace(mine, request_id="last")])
        assert alone == first == last

    async def test_the_answers_of_a_request_are_the_same_in_parts(self) -> None:
        async with self.engine(slots=4) as engine:
            whole = await collect(engine, sampled(self.prompts[0], 7, n=5))
            parts = []
            for first, count in ((0, 2), (2, 3)):
                part = sampled(self.prompts[0], 7, n=count)
                parts += await collect(engine, replace(part, sampling=replace(part.sampling, first=first)))
        assert parts == whole

    async def test_seeds_differ(self) -> None:
        async with self.engine() as engine:
            answers = await run_all(engine, [sampled(self.prompts[0], seed) for seed in range(8)])
        assert len({answer.token_ids for answer in answers}) > 1

    async def test_no_seed_is_random(self) -> None:
        async with self.engine() as engine:
            answers = await run_all(engine, [sampled(self.prompts[0], None) for _ in range(8)])
        assert len({answer.token_ids for answer in answers}) > 1

    async def test_n_answers_have_streams_of_their_own(self) -> None:
        request = sampled(self.prompts[1], 3, n=6)
        async with self.engine(slots=4) as engine:
            first = await collect(engine, request)
            again = await collect(engine, replace(request, request_id="again"))
        assert len(first) == 6
        assert len({answer.token_ids for answer in first}) > 1
        assert first == again

    async def test_greedy_is_the_limit_of_a_small_top_p(self) -> None:
        narrow = SamplingParams(temperature=1.0, top_p=1e-6, max_tokens=12, seed=1, ignore_eos=True)
        async with self.engine() as engine:
            best = await run(engine, greedy(self.prompts[0]))
            nucleus = await run(engine, GenerationRequest(self.prompts[0], narrow))
        assert nucleus.token_ids == best.token_ids

    @pytest.mark.parametrize("max_tokens", [1, 7])
    async def test_max_tokens_ends_with_length(self, max_tokens: int) -> None:
        async with self.engine() as engine:
            answer = await run(engine, greedy(self.prompts[0], max_tokens=max_tokens))
        assert len(answer.token_ids) == max_tokens
        assert answer.finish_reason == "length"

    async def test_chunks_report_the_prompts_length(self) -> None:
        async with self.engine() as engine:
            lengths = [
                {chunk.prompt_tokens async for chunk in engine.generate(greedy(prompt))} for prompt in self.prompts
            ]
        assert lengths == [{len(prompt)} for prompt in self.prompts]

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_stop_string_is_cut(self, stream: bool) -> None:
        async with self.engine() as engine:
            whole = await run(engine, greedy(self.prompts[0], max_tokens=32))
            assert len(whole.text) >= 8, "the harness needs prompts with answers of some length"
            stop = whole.text[4:7]
            request = greedy(self.prompts[0], max_tokens=32)
            request = replace(request, sampling=replace(request.sampling, stop=("\x01never", stop)), stream=stream)
            answer = await run(engine, request)
        assert answer.text == whole.text[: whole.text.find(stop)]
        assert answer.finish_reason == "stop"

    async def test_what_looks_like_a_stop_string_is_not_lost(self) -> None:
        async with self.engine() as engine:
            whole = await run(engine, greedy(self.prompts[0], max_tokens=32))
            lookalikes = (whole.text[3:6] + "\x01", whole.text[-3:] + "\x01")
            request = greedy(self.prompts[0], max_tokens=32)
            request = replace(request, sampling=replace(request.sampling, stop=lookalikes), stream=True)
            answer = await run(engine, request)
        assert (answer.text, answer.finish_reason) == (whole.text, "length")

    async def test_a_stream_adds_up_to_the_answer(self) -> None:
        request = sampled(self.prompts[2], 5, n=3)
        async with self.engine() as engine:
            whole = await collect(engine, request)
            streamed = await collect(engine, replace(request, stream=True, request_id="streamed"))
        assert streamed == whole

    async def test_a_stream_comes_in_pieces(self) -> None:
        async with self.engine() as engine:
            streamed: list[Chunk] = []
            async for chunk in engine.generate(replace(greedy(self.prompts[0], max_tokens=16), stream=True)):
                streamed.append(chunk)
            whole = [chunk async for chunk in engine.generate(sampled(self.prompts[0], 1, n=2))]
        assert len(streamed) > 4
        assert [chunk.finish_reason for chunk in streamed[:-1]] == [None] * (len(streamed) - 1)
        assert sorted(chunk.index for chunk in whole) == [0, 1], "without streaming: one chunk an answer"

    async def test_an_empty_prompt_is_refused(self) -> None:
        async with self.engine() as engine:
            with pytest.raises(InvalidRequest):
                await run(engine, greedy(()))

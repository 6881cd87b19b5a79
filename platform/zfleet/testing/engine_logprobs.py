"""The contract on log-probabilities: of sampled tokens, of alternatives, and of a prompt's own tokens."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from zfleet.engine.contract import (
    BASE_Z,
    MAX_TOP_LOGPROBS,
    ChoicesRequest,
    GenerationRequest,
    PromptRequest,
    SamplingParams,
    ScoreRequest,
)
from zfleet.errors import InvalidRequest, RequestTooLong, UnknownZ
from zfleet.testing.engine_harness import EngineHarness, greedy, run, run_all

TOLERANCE = 1e-4
"""Of log-probabilities in float32, between one batch and another."""


class LogprobsConformance(EngineHarness):
    """Log-probabilities, under the base and under z-vectors, alone and among others."""

    async def test_logprobs_are_the_scores(self) -> None:
        sampling = SamplingParams(temperature=0.7, top_p=0.8, seed=2, logprobs=True, max_tokens=10)
        async with self.engine() as engine:
            digests = [await engine.put_z(self.make_z(seed)) for seed in range(2)]
            requests = [
                GenerationRequest(prompt, sampling, z, stream=stream)
                for prompt, z, stream in zip(
                    self.prompts, [*digests, "base", digests[0]], [False, True, False, True], strict=False
                )
            ]
            answers = await run_all(engine, requests)
            scores = await asyncio.gather(
                *(
                    engine.score(ScoreRequest(r.prompt, a.token_ids, r.z_digest))
                    for r, a in zip(requests, answers, strict=True)
                )
            )
        for answer, score in zip(answers, scores, strict=True):
            assert len(answer.logprobs) == len(answer.token_ids) == len(score)
            assert answer.logprobs == pytest.approx(score, abs=1e-4)
            assert max(answer.logprobs) <= 1e-6

    async def test_no_logprobs_unless_requested(self) -> None:
        async with self.engine() as engine:
            assert (await run(engine, greedy(self.prompts[0]))).logprobs == ()

    async def test_alternatives_are_the_likeliest_tokens(self) -> None:
        async with self.engine() as engine:
            z = await engine.put_z(self.make_z(1))
            requests = [
                replace(
                    greedy(prompt, digest),
                    sampling=SamplingParams(
                        temperature=temperature,
                        top_p=0.9,
                        seed=1,
                        max_tokens=6,
                        logprobs=True,
                        top_logprobs=count,
                        ignore_eos=True,
                    ),
                    stream=stream,
                )
                for prompt, digest, temperature, count, stream in zip(
                    self.prompts,
                    (BASE_Z, z, BASE_Z, z),
                    (0.0, 0.0, 2.0, 2.0),
                    (MAX_TOP_LOGPROBS, 1, 5, 0),
                    (True, False, True, False),
                    strict=False,
                )
            ]
            answers = await run_all(engine, requests)
            for request, answer in zip(requests, answers, strict=True):
                count = request.sampling.top_logprobs
                assert len(answer.top_logprobs) == (len(answer.token_ids) if count else 0)
                for place, token in enumerate(answer.token_ids if count else ()):
                    others = answer.top_logprobs[place]
                    assert len(others) == len({other for other, _ in others}) == count
                    assert [value for _, value in others] == sorted((value for _, value in others), reverse=True)
                    # To the last bit: clients see by it whether a token is the likeliest.
                    assert dict(others).get(token, answer.logprobs[place]) == answer.logprobs[place]
                    assert request.sampling.temperature > 0 or others[0][1] == answer.logprobs[place]
            first, *_ = answers[0].top_logprobs
            choices = ChoicesRequest(self.prompts[0], tuple((token,) for token, _ in first))
            scores = await engine.score_choices(choices)
        assert [value for _, value in first] == pytest.approx([score for (score,) in scores], abs=TOLERANCE)

    @pytest.mark.parametrize("ran_before", [False, True])
    async def test_a_prompts_own_tokens_are_scored(self, ran_before: bool) -> None:
        """Whatever an engine keeps of prompts that it answered."""
        long = tuple(token for prompt in self.prompts for token in prompt) * 3
        prompts = (self.prompts[0], long, self.prompts[0][:1], self.prompts[1][:2])
        async with self.engine() as engine:
            digests = [BASE_Z, await engine.put_z(self.make_z(1)), await engine.put_z(self.make_z(2))]
            requests = [
                PromptRequest(prompt, count, z)
                for z in digests
                for prompt, count in zip(prompts, (0, 3, 1, MAX_TOP_LOGPROBS), strict=True)
            ]
            if ran_before:
                await run_all(engine, [greedy(request.prompt, request.z_digest) for request in requests])
            found = await asyncio.gather(*(engine.score_prompt(request) for request in requests))
            for request, prompt, scores in zip(requests, prompts * len(digests), found, strict=True):
                first, rest = prompt[:1], prompt[1:]
                expected = await engine.score(ScoreRequest(first, rest, request.z_digest)) if rest else ()
                assert scores.logprobs == pytest.approx(expected, abs=TOLERANCE)
                assert len(scores.top_logprobs) == (len(rest) if request.top_logprobs else 0)
                for token, logprob, others in zip(rest, scores.logprobs, scores.top_logprobs, strict=False):
                    assert len(others) == request.top_logprobs
                    assert dict(others).get(token, logprob) == logprob
                    assert logprob <= others[0][1]
        assert len({round(sum(scores.logprobs), 3) for scores in found}) == len(digests) * 3 + 1

    async def test_a_prompt_that_cannot_be_scored_fails_alone(self) -> None:
        good = PromptRequest(self.prompts[0], 1)
        async with self.engine() as engine:
            expected = await engine.score_prompt(good)
            longest = (self.prompts[0] * engine.max_length)[: engine.max_length]
            bad = [
                PromptRequest(()),
                PromptRequest((self.prompts[0][0], 10**9)),
                PromptRequest(longest),
                PromptRequest(self.prompts[0], 0, "0" * 64),
            ]
            *errors, scores = await asyncio.gather(
                *(engine.score_prompt(request) for request in (*bad, good)), return_exceptions=True
            )
            whole = await engine.score_prompt(PromptRequest(longest[:-1]))
        assert [type(error) for error in errors] == [InvalidRequest, InvalidRequest, RequestTooLong, UnknownZ]
        assert not isinstance(scores, BaseException)
        assert scores.logprobs == pytest.approx(expected.logprobs, abs=TOLERANCE)
        assert len(whole.logprobs) == len(longest) - 2

    async def test_a_reader_that_leaves_ends_its_scores(self) -> None:
        async with self.engine() as engine:
            expected = await engine.score_prompt(PromptRequest(self.prompts[0]))
            reading = asyncio.create_task(engine.score_prompt(PromptRequest(self.prompts[1], 2)))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            again = await engine.score_prompt(PromptRequest(self.prompts[0]))
            assert again.logprobs == pytest.approx(expected.logprobs, abs=TOLERANCE)
            await self._until(engine, running=0, waiting=0)

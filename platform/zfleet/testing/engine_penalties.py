"""The contract on what may be sampled: bias, penalties, truncation, and tokens that end an answer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from zfleet.engine.contract import ChoicesRequest, Engine, GenerationRequest, SamplingParams, ScoreRequest
from zfleet.errors import InvalidRequest
from zfleet.testing.engine_harness import EngineHarness, run, run_all, sampled

_STEPS = 6


class PenaltiesConformance(EngineHarness):
    """Answers whose tokens are weighed, alone and among others."""

    async def test_a_bias_makes_a_token_certain_or_rules_it_out(self) -> None:
        async with self.engine() as engine:
            first, *_ = (await run(engine, self._greedy())).token_ids
            certain, without = await run_all(
                engine,
                [self._greedy(logit_bias=((self._token(), 100.0),)), self._greedy(logit_bias=((first, -100.0),))],
            )
        assert certain.token_ids == (self._token(),) * _STEPS
        assert first not in without.token_ids

    async def test_logprobs_are_of_the_model_whatever_was_sampled_from(self) -> None:
        changes: dict[str, Any] = {
            "logit_bias": ((self._token(), 5.0),),
            "presence_penalty": 1.5,
            "repetition_penalty": 1.5,
            "top_k": 20,
            "min_p": 0.01,
        }
        async with self.engine() as engine:
            z = await engine.put_z(self.make_z(1))
            request = self._greedy(temperature=1.0, seed=3, logprobs=True, **changes)
            request = replace(request, z_digest=z)
            answer = await run(engine, request)
            score = await engine.score(ScoreRequest(request.prompt, answer.token_ids, z))
        assert answer.logprobs == pytest.approx(score, abs=1e-4)

    @pytest.mark.parametrize(
        "change", [{"frequency_penalty": 2.0}, {"presence_penalty": -2.0}, {"frequency_penalty": 0.4}]
    )
    async def test_penalties_count_the_answers_tokens(self, change: dict[str, float]) -> None:
        """Two tokens are made so likely that no other is sampled; then scores say which of them is."""
        tokens = sorted(set(self.prompts[1]))[:2]
        async with self.engine() as engine:
            answer = await run(engine, self._greedy(logit_bias=tuple((token, 100.0) for token in tokens), **change))
            expected = await self._chosen(engine, tokens, change)
        assert answer.token_ids == tuple(expected)

    async def test_a_repetition_penalty_counts_prompt_and_answer(self) -> None:
        inside, *_ = self.prompts[0]
        outside = sorted({token for prompt in self.prompts for token in prompt} - set(self.prompts[0]))[:3]
        bias = ((inside, 100.0), *((token, 50.0) for token in outside))
        async with self.engine() as engine:
            answer = await run(engine, self._greedy(repetition_penalty=1e4, logit_bias=bias))
            plain = await run(engine, self._greedy(logit_bias=bias))
        assert sorted(answer.token_ids[:3]) == outside
        assert plain.token_ids == (inside,) * _STEPS

    async def test_truncation_leaves_the_likeliest(self) -> None:
        def request(seed: int, **change: Any) -> GenerationRequest:
            return self._greedy(temperature=1.0, seed=seed, logprobs=True, top_logprobs=3, **change)

        async with self.engine() as engine:
            best = await run(engine, self._greedy())
            narrow = await run_all(engine, [request(1, top_k=1), request(2, min_p=1.0)])
            three = await run_all(engine, [request(seed, top_k=3) for seed in range(8)])
            half = await run_all(engine, [request(seed, min_p=0.5) for seed in range(8)])
        assert [answer.token_ids for answer in narrow] == [best.token_ids] * 2
        for answer in three:
            for token, others in zip(answer.token_ids, answer.top_logprobs, strict=True):
                assert token in dict(others)
        for answer in half:
            for logprob, others in zip(answer.logprobs, answer.top_logprobs, strict=True):
                assert logprob >= others[0][1] + math.log(0.5) - 1e-5
        assert len({answer.token_ids for answer in three}) > 1

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_stop_token_ends_the_answer(self, stream: bool) -> None:
        async with self.engine() as engine:
            whole = await run(engine, self._greedy(max_tokens=12))
            stop = next(token for token in whole.token_ids if token != whole.token_ids[0])
            end = whole.token_ids.index(stop)
            before = await run(engine, self._greedy(max_tokens=end))
            request = replace(self._greedy(max_tokens=12, stop_token_ids=(stop,)), stream=stream)
            answer = await run(engine, request)
        assert answer.token_ids == whole.token_ids[: end + 1]
        assert (answer.text, answer.finish_reason) == (before.text, "stop")

    async def test_each_row_has_its_own(self) -> None:
        """The same answers alone and together, beside rows that have none."""
        requests = [
            self._greedy(frequency_penalty=1.0),
            self._greedy(temperature=1.0, seed=1, top_k=4),
            self._greedy(repetition_penalty=1.3),
            self._greedy(temperature=1.0, seed=2, min_p=0.2, presence_penalty=1.0),
            self._greedy(logit_bias=((self._token(), 3.0),)),
            self._greedy(),
            self._greedy(temperature=1.0, seed=2**64 - 1),
            sampled(self.prompts[1], 3),
        ]
        async with self.engine() as engine:
            alone = [await run(engine, request) for request in requests]
            again = [replace(request, request_id=f"again-{place}") for place, request in enumerate(requests)]
            assert await run_all(engine, again) == alone

    async def test_unknown_tokens_are_refused_by_name(self) -> None:
        async with self.engine() as engine:
            with pytest.raises(InvalidRequest, match="logit_bias"):
                await run(engine, self._greedy(logit_bias=((10**9, 1.0),)))

    def _token(self) -> int:
        return self.prompts[1][0]

    def _greedy(self, **options: Any) -> GenerationRequest:
        options = {"temperature": 0.0, "max_tokens": _STEPS, "ignore_eos": True} | options
        return GenerationRequest(self.prompts[0], SamplingParams(**options))

    async def _chosen(self, engine: Engine, tokens: list[int], penalties: dict[str, float]) -> list[int]:
        """Choose from these tokens step by step, by their scores less their penalties."""
        said: list[int] = []
        for _ in range(_STEPS):
            choices = ChoicesRequest(self.prompts[0], tuple((*said, token) for token in tokens))
            weights = [
                scores[-1]
                - penalties.get("frequency_penalty", 0.0) * said.count(token)
                - penalties.get("presence_penalty", 0.0) * (token in said)
                for token, scores in zip(tokens, await engine.score_choices(choices), strict=True)
            ]
            said.append(tokens[weights.index(max(weights))])
        return said

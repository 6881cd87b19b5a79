"""The contract on what is read without sampling: scores of completions, and hidden states of prompts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from zfleet.engine.contract import BASE_Z, ChoicesRequest, HiddenRequest, ScoreRequest
from zfleet.errors import EngineError, InvalidRequest, RequestTooLong, UnknownZ
from zfleet.testing.engine_harness import EngineHarness, greedy, put_all, run, sampled

Tokens = tuple[int, ...]

TOLERANCE = 1e-4
"""Of log-probabilities and hidden states in float32, between one batch and another."""


class ScoresConformance(EngineHarness):
    """Scores and hidden states, alone and among others."""

    @property
    def _choices(self) -> tuple[Tokens, ...]:
        """Completions of several lengths: some begin alike, one is there twice."""
        first, second = self.prompts[1], self.prompts[3]
        return (first[:1], first, second[:2], second, (*second, *first), first[:1])

    def _prompt(self, length: int) -> Tokens:
        """A prompt longer than a block of a prefix cache may be."""
        whole = tuple(token for prompt in self.prompts for token in prompt)
        return (whole * (length // len(whole) + 1))[:length]

    async def test_choices_are_scored_as_each_of_them_alone(self) -> None:
        async with self.engine() as engine:
            for z in (BASE_Z, await engine.put_z(self.make_z(1))):
                for prompt in (self.prompts[0], self._prompt(64)):
                    together = await engine.score_choices(ChoicesRequest(prompt, self._choices, z))
                    alone = [await engine.score(ScoreRequest(prompt, choice, z)) for choice in self._choices]
                    assert [len(scores) for scores in together] == [len(choice) for choice in self._choices]
                    for scores, expected in zip(together, alone, strict=True):
                        assert scores == pytest.approx(expected, abs=TOLERANCE)
                    assert max(map(max, together)) <= 1e-6

    async def test_a_single_token_is_enough_for_a_choice(self) -> None:
        tokens = sorted({token for prompt in self.prompts for token in prompt})
        async with self.engine() as engine:
            scores = await engine.score_choices(ChoicesRequest(self.prompts[0], tuple((token,) for token in tokens)))
            for token, (score,) in list(zip(tokens, scores, strict=True))[:3]:
                alone = await engine.score(ScoreRequest(self.prompts[0], (token,)))
                assert alone == pytest.approx((score,), abs=TOLERANCE)
        assert len({round(score, 3) for (score,) in scores}) > 1

    async def test_choices_under_different_z_share_a_batch(self) -> None:
        async with self.engine(z_rows=3) as engine:
            digests = [BASE_Z, *await put_all(engine, [self.make_z(seed) for seed in range(4)])]
            requests = [ChoicesRequest(prompt, self._choices, z) for z in digests for prompt in self.prompts[:2]]
            together = await asyncio.gather(*(engine.score_choices(request) for request in requests))
            alone = [await engine.score_choices(request) for request in requests]
        for crowded, solitary in zip(together, alone, strict=True):
            for scores, expected in zip(crowded, solitary, strict=True):
                assert scores == pytest.approx(expected, abs=TOLERANCE)
        assert len({round(scores[1][0], 3) for scores in alone}) == len(requests)

    async def test_scores_of_one_prompt_at_once_are_those_of_each_alone(self) -> None:
        async with self.engine() as engine:
            z = await engine.put_z(self.make_z(1))
            requests = [ScoreRequest(prompt, one, z) for prompt in self.prompts[:2] for one in self._choices]
            together = await asyncio.gather(*(engine.score(request) for request in requests))
            alone = [await engine.score(request) for request in requests]
        for crowded, solitary in zip(together, alone, strict=True):
            assert crowded == pytest.approx(solitary, abs=TOLERANCE)

    @pytest.mark.parametrize("length", [31, 32, 33, 64])
    async def test_what_ran_before_changes_no_score(self, length: int) -> None:
        """Whatever an engine keeps of a prompt and its answers, and wherever that ends."""
        prompt = self._prompt(length)
        async with self.engine() as engine:
            z = await engine.put_z(self.make_z(1))
            answer = (await run(engine, greedy(prompt, z, max_tokens=40))).token_ids
            request = greedy(prompt, z, max_tokens=40)
            request = replace(request, sampling=replace(request.sampling, logprobs=True))
            expected = (await run(engine, request)).logprobs
            for _ in range(2):
                assert await engine.score(ScoreRequest(prompt, answer, z)) == pytest.approx(expected, abs=TOLERANCE)
                choices = ChoicesRequest(prompt, (answer, answer[:3], self.prompts[1]), z)
                whole, beginning, _ = await engine.score_choices(choices)
                assert whole == pytest.approx(expected, abs=TOLERANCE)
                assert beginning == pytest.approx(expected[:3], abs=TOLERANCE)

    async def test_a_bad_choice_fails_its_request_alone(self) -> None:
        prompt, good = self.prompts[0], self.prompts[1]
        request = ChoicesRequest(prompt, (good, good[:1]))
        async with self.engine() as engine:
            expected = await engine.score_choices(request)
            most = engine.max_length - len(prompt)
            bad: list[str | Tokens] = [(10**9,), (), "", (good * most)[: most + 1]]
            results = await asyncio.gather(
                *(engine.score_choices(ChoicesRequest(prompt, (good, choice))) for choice in bad),
                engine.score_choices(request),
                return_exceptions=True,
            )
        *errors, scores = results
        assert [type(error) for error in errors] == [InvalidRequest] * 3 + [RequestTooLong]
        assert all("completions[1]" in str(error) for error in errors[:3])
        assert not isinstance(scores, BaseException)
        for one, other in zip(scores, expected, strict=True):
            assert one == pytest.approx(other, abs=TOLERANCE)

    async def test_no_choices_are_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="completions"):
            ChoicesRequest(self.prompts[0], ())
        async with self.engine() as engine:
            with pytest.raises(InvalidRequest, match="the completion"):
                await engine.score(ScoreRequest(self.prompts[0], ()))

    async def test_a_choice_may_fill_max_length(self) -> None:
        async with self.engine() as engine:
            most = engine.max_length - len(self.prompts[0])
            short, long = await engine.score_choices(
                ChoicesRequest(self.prompts[0], (self._prompt(2), self._prompt(most)))
            )
        assert len(long) == most
        assert long[:2] == pytest.approx(short, abs=TOLERANCE)

    async def test_scores_and_hidden_states_need_a_known_z(self) -> None:
        async with self.engine() as engine:
            with pytest.raises(UnknownZ):
                await engine.score_choices(ChoicesRequest(self.prompts[0], self._choices, "0" * 64))
            with pytest.raises(UnknownZ):
                await engine.hidden_state(HiddenRequest(self.prompts[0], "0" * 64))

    async def test_hidden_states_are_those_of_their_prompt_and_z(self) -> None:
        async with self.engine(z_rows=3) as engine:
            digests = [BASE_Z, *await put_all(engine, [self.make_z(seed) for seed in range(3)])]
            requests = [HiddenRequest(prompt, z) for z in digests for prompt in (*self.prompts, self._prompt(100))]
            crowd = [asyncio.create_task(run(engine, sampled(self.prompts[2], 1, z))) for z in digests]
            together = await asyncio.gather(*(engine.hidden_state(request) for request in requests))
            await asyncio.gather(*crowd)
            alone = [await engine.hidden_state(request) for request in requests]
        for crowded, solitary in zip(together, alone, strict=True):
            assert crowded == pytest.approx(solitary, abs=TOLERANCE)
        assert len({len(state) for state in alone}) == 1
        assert len({tuple(round(value, 2) for value in state) for state in alone}) == len(requests)

    async def test_a_hidden_state_is_the_same_after_its_prompt_was_answered(self) -> None:
        """Nothing that an engine keeps of a prompt takes the place of its tokens."""
        prompt = self._prompt(100)
        async with self.engine() as engine:
            z = await engine.put_z(self.make_z(1))
            before = await engine.hidden_state(HiddenRequest(prompt, z))
            await run(engine, greedy(prompt, z))
            assert await engine.hidden_state(HiddenRequest(prompt, z)) == pytest.approx(before, abs=TOLERANCE)

    async def test_a_prompt_without_room_for_an_answer_has_no_hidden_state(self) -> None:
        async with self.engine() as engine:
            longest, longer = (HiddenRequest(self._prompt(engine.max_length - less)) for less in (1, 0))
            state, error, empty = await asyncio.gather(
                engine.hidden_state(longest),
                engine.hidden_state(longer),
                engine.hidden_state(HiddenRequest(())),
                return_exceptions=True,
            )
        assert not isinstance(state, BaseException)
        assert isinstance(error, RequestTooLong)
        assert isinstance(empty, InvalidRequest)

    @pytest.mark.parametrize("turns", range(4))
    async def test_readers_that_leave_end_their_scores_and_hidden_states(self, turns: int) -> None:
        prompt = self._prompt(100)
        async with self.engine(slots=2) as engine:
            z = await engine.put_z(self.make_z(1))
            expected = await engine.hidden_state(HiddenRequest(prompt, z))
            leaving = [
                *(asyncio.create_task(engine.score_choices(ChoicesRequest(prompt, self._choices, z))) for _ in "ab"),
                *(asyncio.create_task(engine.hidden_state(HiddenRequest(prompt, z))) for _ in "ab"),
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
            assert await engine.hidden_state(HiddenRequest(prompt, z)) == pytest.approx(expected, abs=TOLERANCE)
            await self._until(engine, running=0, waiting=0)

    async def test_a_closed_engine_scores_nothing(self) -> None:
        async with self.engine() as engine:
            await engine.close()
            with pytest.raises(EngineError):
                await engine.score_choices(ChoicesRequest(self.prompts[0], self._choices))
            with pytest.raises(EngineError):
                await engine.hidden_state(HiddenRequest(self.prompts[0]))

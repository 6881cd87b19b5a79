"""Scores and hidden states of the embedded engine: which passes they take, and who shares them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from zfleet.engine.contract import BASE_Z, ChoicesRequest, HiddenRequest, ScoreRequest
from zfleet.engine.torch_engine import batch, schedule
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_harness import greedy, run
from zfleet.testing.seeing import Seeing, noise

Passes = list[tuple[int, int]]

PROMPT = tuple(range(5, 35))
CHOICES = ((7, 8, 9), (7,), (9, 11), (12, 8, 20, 6))
TOKENS = 2 + 0 + 1 + 3
"""Tokens of the choices that go through the model: all but the last of each."""


async def test_choices_share_their_prompt(tiny_model: SvfModel, passes: Passes) -> None:
    engine = TorchEngine(tiny_model)
    together = await engine.score_choices(ChoicesRequest(PROMPT, CHOICES))
    assert passes == [(1, len(PROMPT) + TOKENS)]
    alone = [await engine.score(ScoreRequest(PROMPT, choice)) for choice in CHOICES]
    for scores, expected in zip(together, alone, strict=True):
        assert scores == pytest.approx(expected, abs=1e-5)
    await engine.close()


async def test_choices_of_a_token_take_no_more_than_their_prompt(tiny_model: SvfModel, passes: Passes) -> None:
    engine = TorchEngine(tiny_model)
    scores = await engine.score_choices(ChoicesRequest(PROMPT, tuple((token,) for token in range(5, 25))))
    assert passes == [(1, len(PROMPT))]
    assert len(set(scores)) == 20
    await engine.close()


async def test_scores_of_one_prompt_and_z_at_once_share_it(
    tiny_model: SvfModel, make_z: Callable[..., ZVector], passes: Passes
) -> None:
    engine = TorchEngine(tiny_model)
    z = await engine.put_z(make_z(1))
    requests = [ScoreRequest(PROMPT, choice, digest) for choice in CHOICES for digest in (BASE_Z, z)]
    alone = [await engine.score(request) for request in requests]
    passes.clear()
    for found, expected in zip(
        await asyncio.gather(*(engine.score(request) for request in requests)), alone, strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-5)
    assert passes == [(2, len(PROMPT) + TOKENS)]
    await engine.close()


async def test_a_prompt_that_is_not_worth_sharing_is_not_shared(tiny_model: SvfModel, passes: Passes) -> None:
    """Where attention to the longest of all completions costs more than computing a token again."""
    engine = TorchEngine(tiny_model)
    choices = ((6,) * 200, (7, 8), (9, 8), (10, 8))
    scores = await engine.score_choices(ChoicesRequest((5,), choices))
    assert passes == [(4, 200)]
    for choice, found in zip(choices, scores, strict=True):
        assert found == pytest.approx(await engine.score(ScoreRequest((5,), choice)), abs=1e-5)
    await engine.close()


async def test_more_than_a_pass_holds_takes_several(
    tiny_model: SvfModel, monkeypatch: pytest.MonkeyPatch, passes: Passes
) -> None:
    engine = TorchEngine(tiny_model)
    choices = tuple(PROMPT[first : first + 2 + first % 9] for first in range(20))
    whole = await engine.score_choices(ChoicesRequest(PROMPT, choices))
    assert len(passes) == 1
    passes.clear()
    monkeypatch.setattr(batch, "PASS_TOKENS", 10)
    monkeypatch.setattr(schedule, "PASS_TOKENS", 10)
    parts = await engine.score_choices(ChoicesRequest(PROMPT, choices))
    assert len(passes) > 3
    assert all(columns <= len(PROMPT) + 10 for _, columns in passes)
    for found, expected in zip(parts, whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    await engine.close()


async def test_prompts_of_like_length_share_the_pass_of_their_hidden_states(
    tiny_model: SvfModel, make_z: Callable[..., ZVector], passes: Passes
) -> None:
    engine = TorchEngine(tiny_model)
    z = await engine.put_z(make_z(1))
    requests = [HiddenRequest(PROMPT[:length], digest) for length in (30, 28, 5) for digest in (BASE_Z, z)]
    await asyncio.gather(*(engine.hidden_state(request) for request in requests))
    assert passes == [(6, 30)]
    await engine.close()


async def test_answers_go_on_beside_scores_and_hidden_states(tiny_model: SvfModel) -> None:
    engine = TorchEngine(tiny_model)
    expected = await run(engine, greedy(PROMPT, max_tokens=20))
    answer = asyncio.create_task(run(engine, greedy(PROMPT, max_tokens=20)))
    for _ in range(5):
        await asyncio.gather(
            engine.score_choices(ChoicesRequest(PROMPT, CHOICES)), engine.hidden_state(HiddenRequest(PROMPT))
        )
    assert await answer == expected
    await engine.close()


async def test_images_are_part_of_what_is_scored_and_averaged(seeing: Seeing) -> None:
    engine = TorchEngine(seeing.model)
    states = [await engine.hidden_state(HiddenRequest("<image>flip abc", images=(noise(seed),))) for seed in (1, 2, 1)]
    assert states[0] == pytest.approx(states[2], abs=1e-5)
    assert max(abs(one - other) for one, other in zip(*states[:2], strict=True)) > 1e-2
    choices = [ChoicesRequest("<image>flip abc", ("a", "ab"), images=(noise(seed),)) for seed in (1, 2)]
    together = await asyncio.gather(*(engine.score_choices(request) for request in choices))
    for request, scores in zip(choices, together, strict=True):
        for completion, found in zip(request.completions, scores, strict=True):
            alone = await engine.score(ScoreRequest(request.prompt, completion, images=request.images))
            assert found == pytest.approx(alone, abs=1e-5)
    assert together[0] != together[1]
    await engine.close()

"""Bounds of sampling parameters: what is refused is named."""

from __future__ import annotations

from typing import Any

import pytest

from zfleet.engine.contract import MAX_TOP_LOGPROBS, PromptRequest, SamplingParams
from zfleet.engine.sampling_params import MAX_BIASED, MAX_STOP
from zfleet.errors import InvalidRequest

REFUSED: list[tuple[str, Any]] = [
    ("seed", 2**64),
    ("seed", -(2**63) - 1),
    ("top_k", -1),
    ("min_p", 1.5),
    ("min_p", float("nan")),
    ("presence_penalty", 2.1),
    ("frequency_penalty", float("nan")),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", float("inf")),
    ("logit_bias", ((1, 101.0),)),
    ("logit_bias", ((1, float("nan")),)),
    ("logit_bias", tuple((token, 1.0) for token in range(MAX_BIASED + 1))),
    ("stop", ("x",) * (MAX_STOP + 1)),
    ("stop_token_ids", tuple(range(MAX_STOP + 1))),
    ("top_logprobs", 1),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_bad_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=name) as refused:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert len(str(refused.value)) < 300


def test_alternatives_are_bounded() -> None:
    SamplingParams(logprobs=True, top_logprobs=MAX_TOP_LOGPROBS)
    for wrong in (MAX_TOP_LOGPROBS + 1, -1):
        with pytest.raises(InvalidRequest, match="top_logprobs"):
            SamplingParams(logprobs=True, top_logprobs=wrong)
        with pytest.raises(InvalidRequest, match="top_logprobs"):
            PromptRequest((1,), wrong)


def test_the_largest_seeds_are_taken() -> None:
    for seed in (2**64 - 1, -(2**63)):
        assert SamplingParams(seed=seed).seed == seed

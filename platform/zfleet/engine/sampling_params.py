"""How answers are sampled: parameters that every engine takes, and their bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zfleet.errors import InvalidRequest

MAX_N = 128
"""The most answers one request may ask for."""
MAX_TOP_LOGPROBS = 20
"""The most alternatives of a token that a request may ask for."""
MAX_STOP = 64
"""The most strings, and the most tokens, that may end an answer: each is looked for after every token."""
MAX_BIAS = 100.0
"""The largest bias of a token. It makes a token certain, or rules it out."""
MAX_BIASED = 1024
"""The most tokens that may have a bias."""
SEEDS = range(-(2**63), 2**64)
"""Seeds have 64 bits, with or without a sign."""


@dataclass(frozen=True)
class SamplingParams:
    """How to sample one answer.

    Logits are changed in this order: ``logit_bias``, ``repetition_penalty``, the other penalties, ``temperature``,
    ``min_p``, ``top_k``, ``top_p``. A greedy answer takes the likeliest token after bias and penalties.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1], of the tokens that ``min_p`` and ``top_k`` leave.
        max_tokens: The longest answer, in tokens.
        stop: Strings that end the answer; they are not part of its text.
        seed: The same request with the same seed gets the same answer, whatever else runs in the batch. None is random.
        logprobs: Report the log-probability of each sampled token under the unmodified distribution (temperature 1, no
            top_p, no bias, no penalties).
        n: How many answers to sample.
        first: The number of the first answer, from which a seed draws: the answers of a request for several are the
            same in parts.
        ignore_eos: Continue after the end-of-sequence token (for benchmarks).
        top_logprobs: Report so many of the likeliest tokens in each place, too, under the same distribution.
        top_k: Sample from so many of the likeliest tokens; 0 is all.
        min_p: Sample from tokens with at least this share of the likeliest token's probability.
        presence_penalty: Subtracted from the logit of each token that the answer has already.
        frequency_penalty: Subtracted from a token's logit once for each time that the answer has it already.
        repetition_penalty: Divides positive logits, and multiplies negative ones, of tokens in the prompt or answer
            (arXiv 1909.05858). 1 is none.
        logit_bias: (token id, bias), added to the token's logit.
        stop_token_ids: Tokens that end the answer, as the end-of-sequence token does, also with ``ignore_eos``.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 16
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    n: int = 1
    first: int = 0
    ignore_eos: bool = False
    top_logprobs: int = 0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(math.isfinite(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0 or more")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")
        require(1 <= self.n <= MAX_N, "n", self.n, f"from 1 to {MAX_N}")
        require(self.first >= 0, "first", self.first, "0 or more")
        require(all(self.stop), "stop", self.stop, "strings that are not empty")
        for name in ("stop", "stop_token_ids"):
            count = len(getattr(self, name))
            require(count <= MAX_STOP, f"the length of {name}", count, f"at most {MAX_STOP}")
        if self.seed is not None:
            require(self.seed in SEEDS, "seed", self.seed, "of 64 bits: from -2**63 to 2**64 - 1")
        most = MAX_TOP_LOGPROBS if self.logprobs else 0
        asked = f"from 0 to {MAX_TOP_LOGPROBS}, and 0 without logprobs"
        require(0 <= self.top_logprobs <= most, "top_logprobs", self.top_logprobs, asked)
        require(self.top_k >= 0, "top_k", self.top_k, "0 or more")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 to 1")
        for name in ("presence_penalty", "frequency_penalty"):
            require(-2 <= getattr(self, name) <= 2, name, getattr(self, name), "from -2 to 2")
        penalty = self.repetition_penalty
        require(math.isfinite(penalty) and penalty > 0, "repetition_penalty", penalty, "a number above 0")
        require(
            len(self.logit_bias) <= MAX_BIASED, "logit_bias", f"of {len(self.logit_bias)}", f"of {MAX_BIASED} tokens"
        )
        for token, bias in self.logit_bias:
            require(abs(bias) <= MAX_BIAS, "logit_bias", {token: bias}, f"from {-MAX_BIAS:g} to {MAX_BIAS:g}")

    @property
    def penalises(self) -> bool:
        """Whether tokens that came before change the logits."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1

    @property
    def truncates(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Check a value of a request.

    Raises:
        InvalidRequest: It does not hold; names the field, the value and what is allowed.
    """
    if not holds:
        raise InvalidRequest(f"{name} is {value!r}", f"{name} must be {allowed}")

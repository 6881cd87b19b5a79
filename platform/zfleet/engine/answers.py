"""What an engine answers: chunks of a stream, complete answers, scores of a prompt, counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

FinishReason = Literal["stop", "length"]

Alternatives: TypeAlias = tuple[tuple[int, float], ...]
"""The likeliest tokens of one place, the likeliest first: (token id, log-probability)."""


@dataclass(frozen=True)
class Chunk:
    """A piece of answer number ``index``.

    Attributes:
        index: Which of the ``n`` answers.
        text: New text since the last chunk of this answer.
        token_ids: New tokens, the end-of-sequence token included if it was sampled.
        logprobs: One for each new token if the request asks for them, otherwise empty.
        finish_reason: Set on the answer's last chunk.
        prompt_tokens: Length of the prompt, in tokens.
        z_digest: Of the z that the answer is computed with: what the engine has in its row, not what was asked for.
        top_logprobs: The likeliest tokens in the place of each new token, as many as the request asks for; empty if it
            asks for none.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason | None
    prompt_tokens: int
    z_digest: str
    top_logprobs: tuple[Alternatives, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One complete answer.

    Attributes:
        text: The text without stop strings and special tokens.
        token_ids: The sampled tokens, the end-of-sequence token included.
        logprobs: One for each token if the request asks for them, otherwise empty.
        finish_reason: Why it ended.
        z_digest: As in ``Chunk``.
        top_logprobs: As in ``Chunk``.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    z_digest: str
    top_logprobs: tuple[Alternatives, ...] = ()


class PromptScores(NamedTuple):
    """Log-probabilities of a prompt's own tokens. Nothing predicts the first token, so it has none.

    Attributes:
        logprobs: Of each token from the second on.
        top_logprobs: The likeliest tokens in their places, as many as the request asks for.
    """

    logprobs: tuple[float, ...]
    top_logprobs: tuple[Alternatives, ...]


@dataclass(frozen=True)
class EngineStats:
    """Counters of an engine.

    Attributes:
        running: Answers being generated now.
        waiting: Answers and scores that are queued.
        known_z: z-vectors that were put and not dropped.
        resident_z: z-vectors in the table, without the identity in row 0.
        table_rows: Rows of the table, row 0 included.
        generated_tokens: Tokens generated since the start.
        peak_batch: The most rows that ran in one step.
        peak_distinct_z: The most different z in one step.
    """

    running: int
    waiting: int
    known_z: int
    resident_z: int
    table_rows: int
    generated_tokens: int
    peak_batch: int
    peak_distinct_z: int

"""Log-probabilities of sampled tokens, and of the likeliest tokens in their places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zfleet.engine.contract import Alternatives, SamplingParams


class TokenLogprobs(NamedTuple):
    """Of one sampled token.

    Attributes:
        logprob: Its own.
        alternatives: The likeliest tokens in its place; as many as were asked for.
    """

    logprob: float
    alternatives: Alternatives


def token_logprobs(logits: Tensor, tokens: Tensor, parameters: Sequence[SamplingParams]) -> list[TokenLogprobs | None]:
    """Compute log-probabilities under softmax(logits), for the rows that ask for them.

    Args:
        logits: [B, vocabulary] float32, as the model gave them.
        tokens: [B] ids that were sampled.
        parameters: Of each row.

    Returns:
        None for rows that ask for none.
    """
    found: list[TokenLogprobs | None] = [None] * len(parameters)
    asked = [row for row, one in enumerate(parameters) if one.logprobs]
    if not asked:
        return found
    where = slice(None) if len(asked) == len(parameters) else torch.tensor(asked, device=logits.device)
    logprobs = torch.log_softmax(logits[where], -1)
    chosen = logprobs.gather(-1, tokens[where].unsqueeze(-1)).squeeze(-1).tolist()
    most = max(parameters[row].top_logprobs for row in asked)
    if not most:
        others: Iterable[Alternatives] = [()] * len(asked)
    else:
        values, ids = torch.topk(logprobs, most, -1)
        others = alternatives(values, ids)
    for row, logprob, other in zip(asked, chosen, others, strict=True):
        found[row] = TokenLogprobs(logprob, other[: parameters[row].top_logprobs])
    return found


def alternatives(values: Tensor, ids: Tensor) -> list[Alternatives]:
    """Write log-probabilities [N, K] and token ids [N, K] as the alternatives of N places."""
    return [tuple(zip(*place, strict=True)) for place in zip(ids.tolist(), values.tolist(), strict=True)]

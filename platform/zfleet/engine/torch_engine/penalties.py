"""Logits changed by bias and penalties, each row by its own. Rows without any cost nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zfleet.engine.torch_engine.sequence import SequenceState


def changed(logits: Tensor, sequences: Sequence[SequenceState]) -> Tensor:
    """Return logits after ``logit_bias`` and penalties, as ``SamplingParams`` defines them; the same if there are none.

    Args:
        logits: [B, vocabulary] float32; they stay as they are.
        sequences: Of each row, with the tokens sampled so far.
    """
    biased = [
        (row, token, bias) for row, one in enumerate(sequences) for token, bias in one.request.sampling.logit_bias
    ]
    penalised = [row for row, one in enumerate(sequences) if one.request.sampling.penalises]
    if not biased and not penalised:
        return logits
    logits = logits.clone()
    if biased:
        rows, tokens, biases = zip(*biased, strict=True)
        where = torch.tensor(rows, device=logits.device), torch.tensor(tokens, device=logits.device)
        logits.index_put_(where, torch.tensor(biases, device=logits.device), accumulate=True)
    if penalised:
        which = torch.tensor(penalised, device=logits.device)
        logits[which] = _penalised(logits[which], [sequences[row] for row in penalised])
    return logits


def _penalised(logits: Tensor, sequences: Sequence[SequenceState]) -> Tensor:
    vocabulary, device = logits.shape[-1], logits.device
    counts = _counts([sequence.tokens for sequence in sequences], vocabulary, device)
    settings = [sequence.request.sampling for sequence in sequences]
    repetition = torch.tensor([one.repetition_penalty for one in settings], device=device).unsqueeze(-1)
    frequency = torch.tensor([one.frequency_penalty for one in settings], device=device).unsqueeze(-1)
    presence = torch.tensor([one.presence_penalty for one in settings], device=device).unsqueeze(-1)
    if any(one.repetition_penalty != 1 for one in settings):
        seen = (counts + _counts([sequence.prompt.tokens for sequence in sequences], vocabulary, device)) > 0
        logits = torch.where(seen, torch.where(logits > 0, logits / repetition, logits * repetition), logits)
    return logits - frequency * counts - presence * (counts > 0)


def _counts(tokens: Sequence[Sequence[int]], vocabulary: int, device: torch.device) -> Tensor:
    """Count the tokens of each row: [B, vocabulary] float32."""
    longest = max(map(len, tokens))
    # Padded with an id of its own, whose count is dropped.
    padded = [[*row, *[vocabulary] * (longest - len(row))] for row in tokens]
    ids = torch.tensor(padded, dtype=torch.long, device=device).view(len(tokens), longest)
    counts = torch.zeros(len(tokens), vocabulary + 1, device=device)
    return counts.scatter_add_(1, ids, torch.ones_like(ids, dtype=counts.dtype))[:, :vocabulary]

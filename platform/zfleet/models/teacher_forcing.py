"""Logits of given completions, for learning and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.models.images import Images
from zfleet.models.svf_model import SvfModel


@dataclass(frozen=True)
class CompletionLogits:
    """One row per sequence, aligned so that column k predicts token ``targets[:, k]``.

    Only this class knows which columns are a sequence's completion; others go through ``token_sums``, ``unpadded``
    and ``padded``.

    Attributes:
        logits: [B, K, vocabulary] float32.
        targets: [B, K] token ids.
        mask: [B, K] bool, true if the target is a completion token of that row.
    """

    logits: Tensor
    targets: Tensor
    mask: Tensor

    def logprobs(self, temperature: float = 1.0) -> Tensor:
        """Compute each completion token's log-probability under softmax(logits / temperature), 0 elsewhere: [B, K]."""
        chosen = torch.log_softmax(self.logits / temperature, -1).gather(-1, self.targets.unsqueeze(-1)).squeeze(-1)
        return chosen.masked_fill(~self.mask, 0.0)

    def token_sums(self, values: Tensor) -> Tensor:
        """Sum values [B, K] over each sequence's completion tokens: [B]."""
        return (values * self.mask).sum(-1)

    def unpadded(self, values: Tensor) -> list[Tensor]:
        """Split values [B, K] into those of each sequence's completion tokens: [C] each."""
        return [row[completion] for row, completion in zip(values, self.mask, strict=True)]

    def padded(self, values: Sequence[Tensor]) -> Tensor:
        """Lay out values of completion tokens, [C] of each sequence, as ``logprobs`` are: [B, K], 0 elsewhere."""
        laid_out = torch.zeros(self.mask.shape, dtype=values[0].dtype, device=self.mask.device)
        laid_out[self.mask] = torch.cat(list(values))
        return laid_out

    def at(self, rows: Tensor) -> CompletionLogits:
        """Select rows [N] int."""
        if len(rows) == len(self.mask):
            return self
        rows = rows.to(self.mask.device)
        return CompletionLogits(self.logits[rows], self.targets[rows], self.mask[rows])


def completion_logits(
    model: SvfModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    z: Tensor | None,
    images: Sequence[Images] = (),
) -> CompletionLogits:
    """Run prompts and completions in one pass, row i under z[i] (z [B, R]; [1, R] is of all rows, None the base).

    Sequences are padded on the right: no real token sees the padding.

    Args:
        images: Of each prompt, whose image tokens are repeated already; empty if no prompt has any.
    """
    device = model.device
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    longest = max(lengths)
    ids = torch.tensor(
        [[*p, *c, *[0] * (longest - n)] for p, c, n in zip(prompts, completions, lengths, strict=True)], device=device
    )
    starts = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ends = torch.tensor(lengths, device=device)
    first = int(starts.min()) - 1
    kept = torch.arange(first, longest - 1, device=device)
    logits = model.causal_logits(ids, z, images=images, logits_to_keep=kept)
    mask = (kept + 1 >= starts.unsqueeze(1)) & (kept + 1 < ends.unsqueeze(1))
    return CompletionLogits(logits, ids[:, first + 1 :], mask)

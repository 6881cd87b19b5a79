"""A prompt as one vector: the mean of its tokens' hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zfleet.models.completions import Row, lay_out
from zfleet.models.svf_model import SvfModel


@torch.no_grad()
def mean_hidden(model: SvfModel, rows: Sequence[Row], z: Tensor | None) -> Tensor:
    """Average the hidden states of each row's prompt, as the head reads them: [B, hidden] float32.

    Args:
        model: The base in SVF form.
        rows: Prompts, without completions.
        z: [B, R], of each row; None is the base.
    """
    batch = lay_out(rows, model)
    lengths = torch.tensor([[len(row.prompt)] for row in rows], device=model.device)

    def mean(hidden: Tensor) -> Tensor:
        weights = (torch.arange(hidden.shape[1], device=hidden.device) < lengths) / lengths
        return torch.einsum("bt,bth->bh", weights, hidden.float())

    return model.read(mean, batch.ids, z, batch.images, position_ids=batch.positions, use_cache=False)

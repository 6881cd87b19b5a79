"""Attention of one new token a row, without a copy of the keys and values for every query head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "zfleet"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers' ``sdpa`` does. Query heads of one new token that share a key head are its queries.

    transformers repeats keys and values for each query head of a group, in memory. With a single query a row, the
    heads of a group can stand where the length of the query stands: the same sums, no copy.

    Args:
        module: The attention layer.
        query: [B, query heads, T, D].
        key, value: [B, key heads, S, D].
        attention_mask: Broadcasts to [B, 1, T, S]; None masks nothing, or is causal if T is above 1.

    Returns:
        [B, T, query heads, D], and None in place of the weights.
    """
    batch, heads, length, size = query.shape
    shared = key.shape[1]
    if length > 1 or heads == shared:
        attended, weights = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return attended, weights
    folded = query.reshape(batch, shared, heads // shared, size)
    out = functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return out.reshape(batch, 1, heads, size), None


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Have a model attend by ``grouped_attention``; its masks stay those of ``sdpa``."""
    AttentionInterface.register(_NAME, grouped_attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    # The language tower of a vision-language model has a configuration of its own inside.
    for part in (model, model.base_model):
        part.set_attn_implementation(_NAME)

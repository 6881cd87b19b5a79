"""Attention of bases in SVF form: transformers' ``sdpa``, but for shared prompts and for one new token a row."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from zfleet.models.shared_prompt import SharedPrompts, attend_shared

_NAME = "zfleet"
"""The name under which transformers finds ``attention``."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    shared: SharedPrompts | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers' ``sdpa`` does, in the way that costs least.

    Args:
        module: The attention layer.
        query: [B, query heads, T, D].
        key, value: [B, key heads, S, D].
        attention_mask: Broadcasts to [B, 1, T, S]; None masks nothing, or is causal if T is above 1. Unused if prompts
            are shared.
        shared: Where the parts of rows with a shared prompt are; the model's forward pass hands it on.
        options: As transformers gives them.

    Returns:
        [B, T, query heads, D], and None in place of the weights.
    """
    if shared is not None:
        return attend_shared(module, query, key, value, shared, **options), None
    if query.shape[2] == 1 and query.shape[1] != key.shape[1]:
        return _attend_folded(query, key, value, attention_mask, options["scaling"]), None
    attended, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return attended, weights


def use_attention(model: PreTrainedModel) -> None:
    """Have a model attend by ``attention``; its masks stay those of ``sdpa``."""
    # The language tower of a vision-language model has a configuration of its own inside.
    for part in (model, getattr(model, model.base_model_prefix)):
        part.set_attn_implementation(_NAME)


def _attend_folded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Attend from one new token a row: its query heads that share a key head are the queries of that head.

    transformers repeats keys and values for each query head of a group, in memory. With a single query a row, the
    heads of a group can stand where the length of the query stands: the same sums, no copy.
    """
    batch, heads, _, size = query.shape
    groups = key.shape[1]
    folded = query.reshape(batch, groups, heads // groups, size)
    out = functional.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(batch, 1, heads, size)


AttentionInterface.register(_NAME, attention)
# Without this transformers would make no masks for it.
AttentionMaskInterface.register(_NAME, sdpa_mask)

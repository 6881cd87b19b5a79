"""Attention with the heads of a group in the place of the query's length, against transformers' own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from zfleet.models.attention import attention


class Layer(nn.Module):
    """What attention functions read of an attention layer."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


def _mask(rows: int, length: int, seen: int, generator: torch.Generator, *, added: bool) -> Tensor:
    """Hide some of what each row sees, never all."""
    hidden = torch.rand(rows, 1, length, seen, generator=generator) < 0.4
    hidden[..., 0] = False
    return torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf) if added else ~hidden


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize(("heads", "shared"), [(9, 3), (4, 1), (4, 4)])
@pytest.mark.parametrize("masked", ["added", "boolean", "not"])
def test_it_is_transformers_attention(length: int, heads: int, shared: int, masked: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, heads, length, 16, generator=generator)
    # Views of a larger cache, as keys and values of running answers are.
    keys, values = (torch.randn(8, shared, 20, 16, generator=generator)[:5, :, :7] for _ in range(2))
    if masked == "not" and length > 1:
        keys, values = keys[:, :, :length], values[:, :, :length]
    mask = None if masked == "not" else _mask(5, length, 7, generator, added=masked == "added")
    layer = Layer(heads // shared)
    expected, _ = sdpa_attention_forward(layer, query, keys, values, mask, scaling=0.3)
    out, weights = attention(layer, query, keys, values, mask, scaling=0.3)
    assert weights is None
    assert out.shape == expected.shape == (5, length, heads, 16)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)

"""The output head computes the same product, in the order that suits its size and the number of tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zfleet.models import output_head
from zfleet.models.output_head import OutputHead
from zfleet.svf.linear import RowBinding


@pytest.mark.parametrize("amd", [False, True])
@pytest.mark.parametrize("shape", [(1,), (8, 1), (2, 64), (3, 43)])
@pytest.mark.parametrize("words", [96, 5000])
@pytest.mark.parametrize("bias", [False, True])
def test_logits_and_gradients_are_those_of_the_plain_linear(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], words: int, bias: bool, amd: bool
) -> None:
    monkeypatch.setattr(output_head, "_on_amd", lambda: amd)
    generator = torch.Generator().manual_seed(0)
    plain = nn.Linear(16, words, bias=bias).requires_grad_(False)
    module = copy.deepcopy(plain)
    OutputHead(module, RowBinding())
    hidden = torch.randn(*shape, 16, generator=generator)
    weights = torch.randn(*shape, words, generator=generator)
    found = []
    for one in (plain, module):
        leaf = hidden.clone().requires_grad_()
        logits = one(leaf)
        assert logits.is_contiguous()
        (logits * weights).sum().backward()
        assert leaf.grad is not None
        found.append((logits.detach(), leaf.grad))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)

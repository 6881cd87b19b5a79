"""Values of tokens computed chunk by chunk are those of logits in full, and so are their gradients."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from zfleet.models import token_values as module
from zfleet.models.output_head import OutputHead
from zfleet.models.token_values import Divergence, chunk_tokens, token_values
from zfleet.svf.linear import RowBinding

Over = Literal["policy", "base"]


def _head(vocabulary: int, hidden: int, bias: bool = False, seed: int = 0) -> tuple[nn.Linear, OutputHead]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(hidden, vocabulary, bias=bias).requires_grad_(False)
    return linear, OutputHead(linear, RowBinding())


def _in_full(
    linear: nn.Linear, hidden: Tensor, base: Tensor, targets: Tensor, temperature: float, over: Over
) -> Tensor:
    """The same [2, n] by autograd from all logits, as the formulas are written down."""
    logits, others = linear(hidden), linear(base)
    logprobs = torch.log_softmax(logits / temperature, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    log_p, log_q = torch.log_softmax(logits, -1), torch.log_softmax(others, -1)
    first, second = (log_p, log_q) if over == "policy" else (log_q, log_p)
    return torch.stack([logprobs, (first.exp() * (first - second)).sum(-1)])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    tokens=st.integers(0, 17),
    vocabulary=st.integers(2, 40),
    hidden=st.integers(1, 9),
    chunk=st.integers(1, 20),
    temperature=st.sampled_from([1.0, 0.3, 2.5]),
    over=st.sampled_from(["policy", "base"]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_chunks_have_the_values_and_gradients_of_the_whole(
    tokens: int, vocabulary: int, hidden: int, chunk: int, temperature: float, over: Over, bias: bool, seed: int
) -> None:
    linear, head = _head(vocabulary, hidden, bias, seed)
    chance = torch.Generator().manual_seed(seed)
    states, base = (torch.randn(tokens, hidden, generator=chance) for _ in range(2))
    targets = torch.randint(vocabulary, (tokens,), generator=chance)
    weights = torch.randn(2, tokens, generator=chance)
    owners = torch.zeros(tokens, dtype=torch.long)

    whole = states.clone().requires_grad_()
    expected = _in_full(linear, whole, base, targets, temperature, over)
    (expected_gradient,) = torch.autograd.grad((weights * expected).sum(), whole)

    chunked = states.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", 4 * vocabulary * chunk)
        assert chunk_tokens(vocabulary) == chunk
        found = token_values(head, chunked, targets, owners, temperature, Divergence(base, over, learned=True))
        (gradient,) = torch.autograd.grad((weights * found).sum(), chunked)
        measured = token_values(head, chunked, targets, owners, temperature, Divergence(base, over, learned=False))
        (of_logprobs,) = torch.autograd.grad((weights * measured).sum(), chunked)
        (alone,) = torch.autograd.grad(
            (weights[:1] * token_values(head, chunked, targets, owners, temperature, None)).sum(), chunked
        )
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(gradient, expected_gradient, atol=2e-5, rtol=2e-5)
    assert torch.equal(measured, found)
    assert torch.equal(of_logprobs, alone), "a divergence that is only measured has a gradient"


def test_divergence_by_hand() -> None:
    """p = (1/2, 1/2) from q = (1/4, 3/4), by a head that takes the hidden states as logits."""
    linear, head = _head(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
    p, q = torch.tensor([[0.5, 0.5]]).log() + 3.0, torch.tensor([[0.25, 0.75]]).log()

    def divergence(base: Tensor, over: Over) -> float:
        targets = torch.zeros(1, dtype=torch.long)
        return float(token_values(head, p, targets, targets, 1.0, Divergence(base, over, learned=False))[1])

    assert divergence(q, "policy") == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), abs=1e-6)
    assert divergence(q, "base") == pytest.approx(0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5), abs=1e-6)
    assert divergence(p, "policy") == divergence(p, "base") == 0.0


def test_a_bfloat16_head_has_float32_values_and_a_gradient_as_good_as_autograds() -> None:
    linear, head = _head(300, 16)
    chance = torch.Generator().manual_seed(1)
    states, base = (2 * torch.randn(40, 16, generator=chance) for _ in range(2))
    targets = torch.randint(300, (40,), generator=chance)

    def gradient(dtype: torch.dtype, chunked: bool) -> Tensor:
        linear.to(dtype)
        hidden, other = states.to(dtype).requires_grad_(), base.to(dtype)
        if chunked:
            divergence = Divergence(other, "policy", learned=True)
            values = token_values(head, hidden, targets, targets, 0.7, divergence)
        else:
            values = _in_full(linear, hidden, other, targets, 0.7, "policy").float()
        assert values.dtype == torch.float32
        (found,) = torch.autograd.grad(values.sum(), hidden)
        return found.float()

    exact = gradient(torch.float32, chunked=False)
    ours, autograd = (float((gradient(torch.bfloat16, way) - exact).norm() / exact.norm()) for way in (True, False))
    assert ours <= 1.1 * autograd
    assert ours < 0.02


@pytest.mark.parametrize("divergence", [False, True])
def test_no_more_than_three_chunks_of_logits_are_held(monkeypatch: pytest.MonkeyPatch, divergence: bool) -> None:
    vocabulary, tokens, chunk = 500, 100, 4 * 500 * 10
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    _, head = _head(vocabulary, 8)
    hidden = torch.randn(tokens, 8, requires_grad=True)
    targets = torch.zeros(tokens, dtype=torch.long)
    base = Divergence(torch.randn(tokens, 8), "base", learned=True) if divergence else None
    with _Held(least=chunk) as held:
        token_values(head, hidden, targets, targets, 0.5, base).sum().backward()
    assert held.peak == (3 if divergence else 2) * chunk


class _Held(TorchDispatchMode):
    """Counts the bytes of large tensors that are alive at once.

    Attributes:
        peak: The most after any operation.
    """

    def __init__(self, least: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._least = least
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else [out]:
            storage = tensor.untyped_storage()
            if storage.nbytes() >= self._least:
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for alive, size in self._alive.values() if not alive.expired()))
        return out

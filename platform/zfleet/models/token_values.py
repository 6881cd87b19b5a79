"""Log-probabilities and divergences of tokens, computed from hidden states in chunks: no pass holds all logits.

With a vocabulary of 50,000 words the logits of 1,000 tokens take 200 MB, and log-probabilities, divergence and gradient
several times that. Here a chunk of bounded size is computed, together with its gradient in the hidden states, and freed
before the next one. The gradient is computed in the forward pass, one matrix product for each chunk and value, because
the head is frozen and each value depends on one hidden state alone: the backward pass only scales it. Computing the
logits again in the backward pass would cost another product.

The idea is that of Liger's fused linear cross-entropy (arXiv 2410.10989) and of Cut Cross-Entropy (arXiv 2411.09009),
whose kernels need Triton, a GPU, and a loss of their own: this is plain torch, on CPU and GPU alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zfleet.models.output_head import OutputHead

CHUNK_BYTES = 32 * 2**20
"""The most that the float32 logits of one chunk take, if it is more than one token.

Three tensors of that size are held at once: log-probabilities of policy and base, and probabilities. On two threads
smaller chunks were slower, and larger ones no faster.
"""


@dataclass(frozen=True, eq=False)
class Divergence:
    """Kullback-Leibler divergence between policy and base, exact over the vocabulary, at temperature 1.

    Attributes:
        base: [N, hidden], hidden states of the base.
        over: ``policy``: KL(policy || base); ``base``: KL(base || policy).
        learned: Whether it has a gradient.
    """

    base: Tensor
    over: Literal["policy", "base"]
    learned: bool


@dataclass(frozen=True, eq=False)
class Selection:
    """Completion tokens of one pass, and what is computed of them.

    Attributes:
        tokens: [n] int, some of the N tokens; None for all.
        temperature: Of their log-probabilities.
        divergence: None if it is not computed.
    """

    tokens: Tensor | None = None
    temperature: float = 1.0
    divergence: Divergence | None = None


@dataclass(frozen=True, eq=False)
class TokenValues:
    """What was computed of n tokens.

    Attributes:
        logprobs: [n] float32, of the token under softmax(logits / temperature).
        divergence: [n] float32; None if the selection asked for none.
    """

    logprobs: Tensor
    divergence: Tensor | None


def chunk_tokens(vocabulary: int) -> int:
    """Return how many tokens a chunk has."""
    return max(CHUNK_BYTES // (4 * vocabulary), 1)


def token_values(
    head: OutputHead, hidden: Tensor, targets: Tensor, owners: Tensor, temperature: float, divergence: Divergence | None
) -> Tensor:
    """Compute the log-probabilities of tokens, and the divergence if one is given: [1 or 2, n] float32.

    Differentiable in ``hidden`` and in nothing else. To be called while the model is at its head.

    Args:
        head: Of the model.
        hidden: [n, hidden], each predicts a token.
        targets: [n] ids of the tokens.
        owners: [n], the row of the batch that each is from.
        temperature: Of the log-probabilities.
        divergence: From the base, whose hidden states are those of the n tokens.
    """
    out: Tensor = _TokenValues.apply(hidden, head, targets, owners, temperature, divergence)  # type: ignore[no-untyped-call]
    return out


class _TokenValues(torch.autograd.Function):
    """Keeps, for each value that has a gradient, its derivative in the hidden states: [1 or 2, n, hidden]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: OutputHead,
        targets: Tensor,
        owners: Tensor,
        temperature: float,
        divergence: Divergence | None,
    ) -> Tensor:
        values = hidden.new_empty(2 if divergence else 1, len(hidden), dtype=torch.float32)
        with_gradient = 0 if not ctx.needs_input_grad[0] else 2 if divergence and divergence.learned else 1
        derivatives = hidden.new_empty(with_gradient, *hidden.shape)
        step = chunk_tokens(head.vocabulary)
        for first in range(0, len(hidden), step):
            part = slice(first, first + step)
            chunk = None if divergence is None else replace(divergence, base=divergence.base[part])
            out = values[:, part], derivatives[:, part]
            _compute(head, hidden[part], targets[part], owners[part], temperature, chunk, *out)
        ctx.save_for_backward(derivatives)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_values: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (derivatives,) = ctx.saved_tensors
        d_hidden = (d_values[: len(derivatives)].unsqueeze(-1) * derivatives).sum(0)
        return d_hidden.to(derivatives.dtype), None, None, None, None, None


def _compute(
    head: OutputHead,
    hidden: Tensor,
    targets: Tensor,
    owners: Tensor,
    temperature: float,
    divergence: Divergence | None,
    values: Tensor,
    derivatives: Tensor,
) -> None:
    """Compute ``token_values`` of a chunk into ``values``, and the derivatives of 0, 1 or 2 of them in ``hidden``."""
    log_p = torch.log_softmax(head.logits(hidden, owners), -1)
    if divergence is not None:
        log_q = torch.log_softmax(head.logits(divergence.base, owners), -1)
        values[1], slope = _DIVERGENCES[divergence.over](log_p, log_q)
        if len(derivatives) == 2:
            derivatives[1] = slope.to(hidden.dtype) @ head.weight
        del log_q, slope
    if temperature != 1:
        log_p = torch.log_softmax(log_p.div_(temperature), -1)
    chosen = targets.unsqueeze(1)
    values[0] = log_p.gather(1, chosen).squeeze(1)
    if len(derivatives):
        # Of log p(token) in the logits: 1 at the token, less p, over the temperature.
        slope = log_p.exp_().neg_().scatter_add_(1, chosen, torch.ones_like(chosen, dtype=log_p.dtype))
        derivatives[0] = slope.div_(temperature).to(hidden.dtype) @ head.weight


def _over_policy(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Compute KL(p || q) [n] and its derivative in the logits of p, p (log p - log q - KL) [n, vocabulary].

    ``log_q`` is written over: every tensor of this size counts.
    """
    p = log_p.exp()
    ratio = log_q.neg_().add_(log_p)
    divergence = torch.einsum("nv,nv->n", p, ratio)
    return divergence, ratio.sub_(divergence.unsqueeze(1)).mul_(p)


def _over_base(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """Compute KL(q || p) [n] and its derivative in the logits of p, p - q [n, vocabulary]; writes over ``log_q``."""
    q = log_q.exp()
    divergence = torch.einsum("nv,nv->n", q, log_q.sub_(log_p))
    return divergence, torch.exp(log_p, out=log_q).sub_(q)


_DIVERGENCES = {"policy": _over_policy, "base": _over_base}

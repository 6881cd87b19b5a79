"""Sampling: one vectorised draw for a batch whose rows have their own parameters and seeds."""

from __future__ import annotations

import secrets
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_BLOCK = 256
"""Numbers that are summed up together. A block must not hold so many that torch splits one sum over threads."""

_LIKELIEST = 512
"""How many of the likeliest tokens are sorted first: trained models rarely have a wider nucleus."""


def uniforms(seed: int | None, index: int, count: int) -> NDArray[np.float64]:
    """Draw the random numbers [count] in [0, 1) of answer number ``index``, which depend on seed and index alone.

    A counter-based generator (Philox) keyed by seed and index makes an answer independent of the other requests in the
    batch and of how the batch is split.
    """
    key = secrets.randbits(64) if seed is None else seed % 2**64
    return np.random.Generator(np.random.Philox(key=np.array([key, index], dtype=np.uint64))).random(count)


class Truncation(NamedTuple):
    """Which tokens each row may draw, each [B]. Applied in this order, to what the one before left.

    Attributes:
        min_p: float32; tokens with less than this share of the likeliest token's probability are left out.
        top_k: int64; so many of the likeliest tokens stay; 0 is all.
        top_p: float32; the nucleus, the smallest set of likeliest tokens with at least this mass, stays.
    """

    min_p: Tensor
    top_k: Tensor
    top_p: Tensor

    def rows(self, which: Tensor) -> Truncation:
        """Return those of some rows."""
        return Truncation(*(one[which] for one in self))

    @property
    def narrow(self) -> Tensor:
        """Whether anything is left out, [B] bool."""
        return (self.top_p < 1) | self.bounded

    @property
    def bounded(self) -> Tensor:
        """Whether ``min_p`` or ``top_k`` leaves tokens out, [B] bool."""
        return (self.top_k > 0) | (self.min_p > 0)


def sample(logits: Tensor, temperature: Tensor, truncation: Truncation, uniform: Tensor) -> Tensor:
    """Draw one token for each row by inverting the cumulative distribution. A row draws the same in any company.

    Args:
        logits: [B, vocabulary] float32.
        temperature: [B]; 0 takes the most likely token.
        truncation: Of each row.
        uniform: [B] float64 in [0, 1).

    Returns:
        Token ids [B].
    """
    drawn = (temperature > 0).nonzero().squeeze(-1)
    if not len(drawn):
        return logits.argmax(-1)
    if len(drawn) < len(logits):
        tokens = logits.argmax(-1)
        tokens[drawn] = sample(logits[drawn], temperature[drawn], truncation.rows(drawn), uniform[drawn])
        return tokens
    probabilities = torch.softmax(logits / temperature.clamp_min(1e-6).unsqueeze(-1), -1)
    narrow = truncation.narrow.nonzero().squeeze(-1)
    if len(narrow) == len(logits):
        return _draw_narrow(probabilities, truncation, uniform)
    tokens = _draw(probabilities, uniform)
    if len(narrow):
        tokens[narrow] = _draw_narrow(probabilities[narrow], truncation.rows(narrow), uniform[narrow])
    return tokens


def _draw_narrow(probabilities: Tensor, truncation: Truncation, uniform: Tensor) -> Tensor:
    """Draw from what stays. It is looked for among few likeliest tokens first: to sort a vocabulary takes long."""
    few = min(_LIKELIEST, probabilities.shape[-1])
    order = torch.topk(probabilities, few, -1).indices.sort(-1).values
    mass, order, whole = _truncated(probabilities, order, truncation)
    tokens = order.gather(-1, _draw(mass, uniform).unsqueeze(-1)).squeeze(-1)
    rest = (~whole).nonzero().squeeze(-1)
    if few < probabilities.shape[-1] and len(rest):
        everything = torch.arange(probabilities.shape[-1], device=probabilities.device).expand(len(rest), -1)
        mass, order, _ = _truncated(probabilities[rest], everything, truncation.rows(rest))
        tokens[rest] = order.gather(-1, _draw(mass, uniform[rest]).unsqueeze(-1)).squeeze(-1)
    return tokens


def _truncated(probabilities: Tensor, candidates: Tensor, truncation: Truncation) -> tuple[Tensor, Tensor, Tensor]:
    """Sort candidates [B, K], given by ascending id; the likeliest first, equal ones by id.

    Returns:
        The mass that stays [B, K], their ids [B, K], and whether all that stays is among them for certain [B].
    """
    mass, by_mass = probabilities.gather(-1, candidates).sort(dim=-1, descending=True, stable=True)
    min_p, top_k, top_p = (one.unsqueeze(-1) for one in truncation)
    rank = torch.arange(mass.shape[-1], device=mass.device)
    allowed = (mass >= min_p * mass[:, :1]) & ((rank < top_k) | (top_k == 0))
    exact = (mass * allowed).double()
    # Without a bound the candidates are all of the vocabulary, whose mass is 1.
    bounded = truncation.bounded.unsqueeze(-1)
    total = torch.where(bounded, exact.sum(-1, keepdim=True), 1.0)
    # A token stays while the mass before it is below top_p, so the likeliest always stays.
    stays = allowed & ((top_p >= 1) | (exact.cumsum(-1) - exact < top_p * total))
    # Tokens as likely as the last candidate may be missing among the candidates.
    needed = torch.where(bounded, allowed, stays)
    whole = ~(needed & (mass == mass[:, -1:])).any(-1)
    return mass * stays, candidates.gather(-1, by_mass), whole


def _draw(mass: Tensor, uniform: Tensor) -> Tensor:
    """Return the index [B] at which the cumulative mass first exceeds ``uniform`` of the total.

    Sums over blocks are compared first, so that only one block of a row is summed up number by number.

    Args:
        mass: [B, K] float32; some of each row is positive.
        uniform: [B] float64 in [0, 1).
    """
    padded = functional.pad(mass, (0, -mass.shape[-1] % _BLOCK)) if mass.shape[-1] % _BLOCK else mass
    blocks = padded.unflatten(-1, (-1, _BLOCK))
    block, left = _invert(blocks.sum(-1, dtype=torch.float64), uniform.unsqueeze(-1), of_total=True)
    numbers = blocks[torch.arange(len(blocks), device=mass.device), block.squeeze(-1)].double()
    index, _ = _invert(numbers, left, of_total=False)
    return (block * _BLOCK + index).squeeze(-1)


def _invert(mass: Tensor, target: Tensor, of_total: bool) -> tuple[Tensor, Tensor]:
    """Return the index [B, 1] at which the cumulative mass [B, K] first exceeds a target [B, 1], and the rest of it."""
    cumulative = mass.cumsum(-1)
    if of_total:
        target = target * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True)
    # Rounding can put the target at the very end; the last entry with mass is the right one then.
    last = (mass > 0).long().mul(torch.arange(1, mass.shape[-1] + 1, device=mass.device)).argmax(-1, keepdim=True)
    index = torch.minimum(index, last)
    return index, (target - (cumulative - mass).gather(-1, index)).clamp_min(0)

"""Sampling: one vectorised draw for a batch whose rows have their own parameters and seeds."""

from __future__ import annotations

import secrets

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


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token for each row by inverting the cumulative distribution. A row draws the same in any company.

    Args:
        logits: [B, vocabulary] float32.
        temperature: [B]; 0 takes the most likely token.
        top_p: [B]; the nucleus is the smallest set of likeliest tokens with at least this mass.
        uniform: [B] float64 in [0, 1).

    Returns:
        Token ids [B].
    """
    drawn = (temperature > 0).nonzero().squeeze(-1)
    if not len(drawn):
        return logits.argmax(-1)
    if len(drawn) < len(logits):
        tokens = logits.argmax(-1)
        tokens[drawn] = sample(logits[drawn], temperature[drawn], top_p[drawn], uniform[drawn])
        return tokens
    probabilities = torch.softmax(logits / temperature.clamp_min(1e-6).unsqueeze(-1), -1)
    narrow = (top_p < 1).nonzero().squeeze(-1)
    if len(narrow) == len(logits):
        return _draw_nucleus(probabilities, top_p, uniform)
    tokens = _draw(probabilities, uniform)
    if len(narrow):
        tokens[narrow] = _draw_nucleus(probabilities[narrow], top_p[narrow], uniform[narrow])
    return tokens


def log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return each row's log-probability of its token [B], at temperature 1."""
    return torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _draw_nucleus(probabilities: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Draw from the nucleus. It is looked for among few likeliest tokens first: to sort a vocabulary takes long."""
    few = min(_LIKELIEST, probabilities.shape[-1])
    order = torch.topk(probabilities, few, -1).indices.sort(-1).values
    mass, order, whole = _nucleus(probabilities, order, top_p)
    tokens = order.gather(-1, _draw(mass, uniform).unsqueeze(-1)).squeeze(-1)
    rest = (~whole).nonzero().squeeze(-1)
    if few < probabilities.shape[-1] and len(rest):
        everything = torch.arange(probabilities.shape[-1], device=probabilities.device).expand(len(rest), -1)
        mass, order, _ = _nucleus(probabilities[rest], everything, top_p[rest])
        tokens[rest] = order.gather(-1, _draw(mass, uniform[rest]).unsqueeze(-1)).squeeze(-1)
    return tokens


def _nucleus(probabilities: Tensor, candidates: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort candidates [B, K], given by ascending id; the likeliest first, equal ones by id.

    Returns:
        Their mass in the nucleus [B, K], their ids [B, K], and whether the nucleus is among them for certain [B].
    """
    mass, by_mass = probabilities.gather(-1, candidates).sort(dim=-1, descending=True, stable=True)
    exact = mass.double()
    # A token stays while the mass before it is below top_p, so the likeliest always stays.
    stays = exact.cumsum(-1) - exact < top_p.unsqueeze(-1)
    # Tokens as likely as the last candidate may be missing among the candidates.
    whole = ~(stays & (mass == mass[:, -1:])).any(-1)
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

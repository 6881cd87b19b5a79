"""Sampling: one vectorised draw for a batch whose rows have their own parameters and seeds."""

from __future__ import annotations

import secrets

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uniforms(seed: int | None, index: int, count: int) -> NDArray[np.float64]:
    """Draw the random numbers [count] in [0, 1) of answer number ``index``, which depend on seed and index alone.

    A counter-based generator (Philox) keyed by seed and index makes an answer independent of the other requests in the
    batch and of how the batch is split.
    """
    key = secrets.randbits(64) if seed is None else seed % 2**64
    return np.random.Generator(np.random.Philox(key=np.array([key, index], dtype=np.uint64))).random(count)


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token for each row by inverting the cumulative distribution.

    Args:
        logits: [B, vocabulary] float32.
        temperature: [B]; 0 takes the most likely token.
        top_p: [B]; the nucleus is the smallest set of likeliest tokens with at least this mass.
        uniform: [B] float64 in [0, 1).

    Returns:
        Token ids [B].
    """
    greedy = logits.argmax(-1)
    if not bool((temperature > 0).any()):
        return greedy
    scaled = logits / temperature.clamp_min(1e-6).unsqueeze(-1)
    probabilities = torch.softmax(scaled.double(), -1)
    if bool((top_p < 1).any()):
        ordered, order = torch.sort(probabilities, dim=-1, descending=True, stable=True)
        # A token stays while the mass before it is below top_p, so the likeliest always stays.
        keep = ordered.cumsum(-1) - ordered < top_p.unsqueeze(-1)
        nucleus = order.gather(-1, _invert(ordered * keep, uniform)).squeeze(-1)
        # A row without top_p draws as it would alone: the parameters of other rows must not change its answer.
        drawn = torch.where(top_p < 1, nucleus, _invert(probabilities, uniform).squeeze(-1))
    else:
        drawn = _invert(probabilities, uniform).squeeze(-1)
    return torch.where(temperature > 0, drawn, greedy)


def _invert(mass: Tensor, uniform: Tensor) -> Tensor:
    """Return the index [B, 1] where the cumulative mass first exceeds ``uniform`` of the total."""
    cumulative = mass.cumsum(-1)
    threshold = uniform.unsqueeze(-1) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, threshold, right=True)
    # Rounding can put the threshold at the very end; the last token with mass is the right one then.
    last = (mass > 0).long().mul(torch.arange(1, mass.shape[-1] + 1, device=mass.device)).argmax(-1, keepdim=True)
    return torch.minimum(index, last)

"""Gradient checkpointing: activations inside a decoder layer are computed again when the backward pass needs them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from zfleet.models.svf_model import SvfModel
from zfleet.svf.linear import RowBinding


def checkpoint_layers(model: SvfModel) -> None:
    """Keep only the input of each decoder layer, and compute the rest again; passes without gradients stay as they are.

    transformers' own ``gradient_checkpointing_enable`` would do nothing here: it asks for training mode, which turns
    dropout on. Call this once; before or after the model is split over processes.
    """
    for _, layer in decoder_layers(model.base.model):
        layer.forward = _recomputed(layer.forward, model.binding)


def decoder_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """List path and module of each decoder layer, in order."""
    return [(path, part) for path, part in model.named_modules() if isinstance(part, GradientCheckpointingLayer)]


def _recomputed(forward: Callable[..., Any], binding: RowBinding) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **options)
        rows = binding.rows

        def with_rows(*args: Any, **options: Any) -> Any:
            # The second call is in the backward pass: nothing is bound there, and on a GPU it is another thread.
            with binding.bound(rows):
                return forward(*args, **options)

        # Models are in evaluation mode: no random number is drawn.
        return checkpoint(with_rows, *args, use_reentrant=False, preserve_rng_state=False, **options)

    return run

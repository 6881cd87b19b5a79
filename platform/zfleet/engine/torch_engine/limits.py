"""What the embedded engine refuses of a base, and how much it computes in a step."""

from __future__ import annotations

from torch import nn

from zfleet.errors import BaseModelError, EngineError
from zfleet.models.base import Base
from zfleet.models.families import sliding_window
from zfleet.models.svf_model import SvfModel
from zfleet.svf.linear import SvfLinear

_STRETCHING = ("dynamic", "longrope")
"""Rotary embeddings that change for every row of a batch when its longest row passes the original length."""


def check_whole(model: SvfModel) -> None:
    """Refuse a model that is split over processes: each process has other requests and would wait for the others.

    Raises:
        EngineError: Names the base.
    """
    if model.sharding is not None:
        raise EngineError(
            f"base {model.base.name} is split over the processes that train, which cannot generate on it",
            "generate elsewhere: `engine: vllm`, whose engine.vllm.tensor_parallel splits the base over devices",
        )


def check_length(base: Base, length: int) -> None:
    """Refuse a base that treats sequences of this length in a way that the batch does not.

    Raises:
        BaseModelError: Names the base's limit and the length.
    """
    config = base.model.config
    window = sliding_window(config)
    if window is not None and window < length:
        raise BaseModelError(
            f"base {base.name} attends to the last {window} tokens only, the engine would run {length}",
            f"set engine.max_length to at most {window}",
        )
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    if rope.get("rope_type") in _STRETCHING and original < length:
        raise BaseModelError(
            f"base {base.name} stretches its positions ({rope['rope_type']}) beyond {original} tokens, the engine "
            f"would run {length}: a long request would change the answers of all others in its batch",
            f"set engine.max_length to at most {original}",
        )


_STEP_WORK = 10**11
"""Multiplications of the prompts in one step beside answers under way: half a second on two cores."""

_LEAST_TOKENS = 256
"""Fewer tokens in a pass cost hardly less: it reads all weights."""


def piece_tokens(model: SvfModel) -> int:
    """Choose how many tokens of prompts a step computes beside answers under way, by the size of the base."""
    linears = [module for module in model.base.model.modules() if isinstance(module, SvfLinear | nn.Linear)]
    sizes = [linear.us.numel() + linear.vh.numel() for linear in linears if isinstance(linear, SvfLinear)]
    sizes += [linear.weight.numel() for linear in linears if isinstance(linear, nn.Linear)]
    return max(_LEAST_TOKENS, _STEP_WORK // sum(sizes))

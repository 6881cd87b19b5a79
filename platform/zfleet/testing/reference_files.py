"""Files in the format of the reference implementation (SakanaAI/self-adaptive-llms), for tests of their import."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class Policy(nn.Module):
    """Has a state dict with the names of the reference implementation's module ``Policy``."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.learnable_params_module_list = nn.ParameterList(map(nn.Parameter, params.values()))


def params_of(
    model: nn.Module, trained: Callable[[str], bool] = lambda key: "mlp" in key, seed: int = 0
) -> dict[str, Tensor]:
    """Draw p of a model's trained weights, in the order of its state dict: {name: [r] bfloat16}, around 0."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(min(weight.shape), generator=generator).to(torch.bfloat16)
        for key, weight in model.state_dict().items()
        if trained(key)
    }

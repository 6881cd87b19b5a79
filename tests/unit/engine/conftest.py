"""What tests of the embedded engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from zfleet.models.svf_model import SvfModel


@pytest.fixture
def passes(tiny_model: SvfModel) -> Iterator[list[tuple[int, int]]]:
    """Rows and columns of the token ids of every forward pass of the tiny model."""
    seen: list[tuple[int, int]] = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows, columns = inputs[0].shape
        seen.append((rows, columns))

    hook = tiny_model.base.model.get_input_embeddings().register_forward_pre_hook(note)
    yield seen
    hook.remove()

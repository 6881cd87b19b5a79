"""Which matrices of a base a z scales, their order and sizes, and where each one's values lie when flattened."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from zfleet.errors import SpecError

PRESETS = {
    "attention": r".*\.(self_attn|attention|attn)\.\w+",
    "mlp": r".*\.(mlp|feed_forward)\.\w+",
    "all": r".*\.(self_attn|attention|attn|mlp|feed_forward)\.\w+",
}
"""Matrices that ``targets`` names in a word, as a pattern over whole module paths."""

_ALL = "all"
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class ZLayout:
    """Names and ranks of the target matrices, in the order of the base's modules.

    Attributes:
        names: Module paths, such as ``model.layers.0.mlp.up_proj``.
        ranks: r = min(m, n) of each matrix.
    """

    names: tuple[str, ...]
    ranks: tuple[int, ...]

    @cached_property
    def size(self) -> int:
        """R, the numbers in one z: the sum of the ranks."""
        return sum(self.ranks)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each matrix's values lie in a flat z [R]."""
        ends = [sum(self.ranks[: i + 1]) for i in range(len(self.ranks))]
        return {name: slice(end - rank, end) for name, rank, end in zip(self.names, self.ranks, ends, strict=True)}

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The transformer layer of each matrix, counted from 0 (0 for a matrix outside all layers)."""
        return tuple(layer_of(name) for name in self.names)

    def flatten(self, values: dict[str, Tensor]) -> Tensor:
        """Concatenate {name: [r]} to [R]."""
        return torch.cat([values[name].reshape(-1) for name in self.names])

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Split [..., R] into {name: [..., r]}; views, not copies."""
        # In one operation: the gradient of each of many slices would be a tensor of R numbers, nearly all of them 0.
        return dict(zip(self.names, flat.split(self.ranks, -1), strict=True))


def layer_of(name: str) -> int:
    """Return the layer index in a module path: ``model.layers.3.mlp.up_proj`` is 3."""
    match = _LAYER.search(name)
    return int(match.group(1)) if match else 0


def kind_of(name: str) -> str:
    """Return the kind of a matrix, the last part of its module path: ``model.layers.3.mlp.up_proj`` is ``up_proj``."""
    return name.rpartition(".")[2]


def narrowest_preset(names: Iterable[str]) -> str:
    """Return the preset with the fewest matrices that has all of these; ``all`` if no other has."""
    listed = list(names)
    smaller = (preset for preset in PRESETS if preset != _ALL)
    return next((one for one in smaller if all(re.fullmatch(PRESETS[one], name) for name in listed)), _ALL)


def target_names(model: nn.Module, targets: str) -> list[str]:
    """List the module paths of the linears that ``targets`` selects, in the order of the model.

    Args:
        model: The base.
        targets: ``mlp``, ``attention``, ``all`` or a regular expression over whole module paths.

    Raises:
        SpecError: The expression is invalid, or nothing matches.
    """
    try:
        pattern = re.compile(PRESETS.get(targets, targets))
    except re.error as error:
        raise SpecError(
            f"targets {targets!r} is no regular expression: {error}", f"use one of {', '.join(PRESETS)} or a pattern"
        ) from error
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = [name for name in linears if pattern.fullmatch(name)]
    if not names:
        raise SpecError(
            f"targets {targets!r} matches none of the base's {len(linears)} linear layers",
            f"they are named like {', '.join(linears[:3])}",
        )
    return names

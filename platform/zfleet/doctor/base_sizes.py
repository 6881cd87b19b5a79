"""What a base and its factors take in memory, read from the headers of its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from zfleet.errors import BaseModelError
from zfleet.models.fingerprint import weight_files
from zfleet.svf.layout import PRESETS

_GIB_OF_A_NUMBER = 4 / 2**30
_EYES = re.compile(r".*\b(vision_tower|multi_modal_projector)\..*")


@dataclass(frozen=True)
class BaseSizes:
    """Sizes in float32, in GiB.

    Attributes:
        weights: All weights.
        u: U of all factors: m r numbers for each matrix [m, n] of targets `all`, r = min(m, n).
        vh: Vh of all factors: r n numbers each.
    """

    weights: float
    u: float
    vh: float


def read_sizes(folder: Path) -> BaseSizes:
    """The sizes of a base.

    Raises:
        BaseModelError: The folder holds no weights, or damaged ones.
    """
    weights = u = vh = 0
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as tensors:
                shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BaseModelError(f"{file} is truncated or damaged: {error}", "fetch the base again") from error
        weights += sum(map(prod, shapes.values()))
        for name, shape in shapes.items():
            chosen = re.fullmatch(PRESETS["all"], name.removesuffix(".weight")) and not _EYES.fullmatch(name)
            if len(shape) == 2 and chosen:
                u += shape[0] * min(shape)
                vh += shape[1] * min(shape)
    return BaseSizes(weights * _GIB_OF_A_NUMBER, u * _GIB_OF_A_NUMBER, vh * _GIB_OF_A_NUMBER)

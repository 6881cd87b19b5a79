"""A LoRA adapter of PEFT as an expert: the z that is nearest to W + B A, and what it leaves out.

Nothing in the adapter is run: its config is JSON, its weights are safetensors. Whatever would make the adapter another
function than W' = W + scale B A is refused by name. Sources: ``LoraConfig`` and ``LoraLayer`` of PEFT 0.21.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zfleet.errors import BaseModelError, FormatError
from zfleet.files import read_or
from zfleet.formats.lora_export import CONFIG, PREFIX, WEIGHTS
from zfleet.formats.projection import Residual, project_product
from zfleet.remembered import file_sha256
from zfleet.svf.folder import FactorFolder
from zfleet.svf.mapped import map_tensors
from zfleet.svf.stored import WEIGHT_DTYPES, TargetMatrices
from zfleet.svf.zvector import ZVector

_SAVE = "save the adapter again with PEFT's save_pretrained"
_PLAIN = "train a plain LoRA, or merge the adapter into the base with PEFT's merge_and_unload and import the checkpoint"
_TEXT_BYTES = 2**20
_HEADER_BYTES = 2**24
"""More than the header of any adapter; beyond its numbers, a file holds no more."""

_READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"}
_WITHOUT_EFFECT = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    # Which modules were chosen: the tensors say it.
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    # Of the training.
    *("lora_dropout", "runtime_config", "ensure_weight_tying", "eva_config", "lora_ga_config", "loftq_config"),
    *("corda_config", "megatron_core", "qalora_group_size"),
    # PEFT itself ignores it for linears.
    "fan_in_fan_out",
}
"""Of ``adapter_config.json``. Any other field has an effect, unless it is empty, false or "none"."""
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of ``init_lora_weights`` with which PEFT leaves the base's weights alone when it loads the adapter."""

_KEY = re.compile(rf"{re.escape(PREFIX)}(?P<path>.+)\.lora_(?P<part>[AB])\.weight")


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """An adapter that fits a base.

    Attributes:
        folder: Where it is.
        sha256: Of its file of weights.
        products: {matrix: B [m, k], A [k, n] and the scale of their product}, in the order of the base's matrices.
    """

    folder: Path
    sha256: str
    products: Mapping[str, tuple[Tensor, Tensor, float]]

    def z_on(self, factors: FactorFolder) -> tuple[ZVector, list[Residual]]:
        """Project every matrix; those without an adapter keep z = 1.

        Args:
            factors: Of the base; they hold every matrix of ``products``.

        Returns:
            The nearest z, and what it leaves out of each matrix that the adapter changes.

        Raises:
            FormatError: An adapter's matrix is not finite.
            FactorsError: The factors are damaged.
        """
        values = {name: torch.ones(rank) for name, rank in zip(factors.names, factors.layout.ranks, strict=True)}
        residuals = []
        for name, (b, a, scale) in self.products.items():
            for part, tensor in (("A", a), ("B", b)):
                if not bool(torch.isfinite(tensor).all()):
                    raise FormatError(
                        f"lora_{part} of {name} in {self.folder} holds NaN or infinite values",
                        "the training diverged: give an earlier checkpoint of it",
                    )
            values[name], residual = project_product(name, scale * b.double(), a, factors.matrix(name))
            residuals.append(residual)
        return ZVector(values, factors.base, factors.digest, factors.targets), residuals


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of PEFT, by its config."""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path, matrices: TargetMatrices, paths: Mapping[str, str]) -> LoraAdapter:
    """Read an adapter and check it against a base; its weights are mapped, not read.

    Args:
        folder: As PEFT's ``save_pretrained`` wrote it.
        matrices: All matrices of the base that the adapter may change.
        paths: {matrix: module path in the whole model}, as ``module_paths`` returns it.

    Raises:
        FormatError: Missing, truncated, too large for the base, no plain LoRA, or of other modules, shapes or ranks;
            names the file, and the field or tensor.
    """
    config = _read_config(folder / CONFIG)
    tensors = _read_weights(folder, matrices)
    names = {path: name for name, path in paths.items()}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        # An adapter of the language tower alone has the tower's names.
        name = None if match is None else names.get(match["path"], match["path"] if match["path"] in paths else None)
        if match is None or name is None:
            raise FormatError(
                f"{folder / WEIGHTS} holds {key}, which is no LoRA matrix of the base's {matrices.targets} linears",
                f"{_PLAIN}, or name the linears that it changes with --targets",
            )
        parts.setdefault(name, {})[match["part"]] = tensor
    products = {}
    for one in matrices.matrices:
        if one.name in parts:
            path = paths[one.name]
            products[one.name] = _checked(folder / WEIGHTS, path, parts[one.name], one.shape, config)
    if not products:
        raise FormatError(f"{folder / WEIGHTS} holds no LoRA matrix", _SAVE)
    return LoraAdapter(folder, file_sha256(folder / WEIGHTS), products)


def _read_config(path: Path) -> dict[str, Any]:
    if path.is_file() and path.stat().st_size > _TEXT_BYTES:
        raise FormatError(f"{path} has {path.stat().st_size:,} bytes, more than any adapter's config", _SAVE)
    try:
        config = json.loads(read_or(path, lambda error: FormatError(f"{path} cannot be read: {error}", _SAVE)))
    except ValueError as error:
        raise FormatError(f"{path} is no JSON: {error}", _SAVE) from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise FormatError(f"{path} has peft_type {kind!r}, not 'LORA'", _PLAIN)
    for key, value in config.items():
        if key not in _READ | _WITHOUT_EFFECT and value and value != "none":
            raise FormatError(f"{path} sets {key} to {value!r}, which no z can do", _PLAIN)
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        raise FormatError(
            f"{path} sets init_lora_weights to {start!r}, with which PEFT changes the base's weights too",
            "save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA",
        )
    for key in ("r", "lora_alpha"):
        if not _is_positive(config.get(key)):
            raise FormatError(f"{path} sets {key} to {config.get(key)!r}, not to a number above 0", _SAVE)
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(map(_is_positive, pattern.values())):
            raise FormatError(f"{path} sets {key} to {pattern!r}, not to numbers above 0", _SAVE)
    return config


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _read_weights(folder: Path, matrices: TargetMatrices) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        others = sorted(one.name for one in folder.glob("adapter_model.*"))
        content = f"only {others[0]}, a pickle that is not loaded" if others else f"no {WEIGHTS}"
        raise FormatError(f"{folder} holds {content}", f"{_SAVE}: its default, safe_serialization, writes {WEIGHTS}")
    # By its size, before anything is read: no adapter has more than the full rank of every matrix, in float64.
    most = _HEADER_BYTES + sum(8 * min(one.shape) * sum(one.shape) for one in matrices.matrices)
    if (size := path.stat().st_size) > most:
        raise FormatError(
            f"{path} has {size:,} bytes; adapters of full rank for all {matrices.targets} linears of the base have "
            f"{most:,} at most",
            "give the base that it was trained on, and a plain LoRA without embeddings or heads",
        )
    try:
        tensors = map_tensors(path)
    except BaseModelError as error:
        raise FormatError(error.message, _SAVE) from error
    return tensors


def _checked(
    file: Path, path: str, parts: Mapping[str, Tensor], shape: tuple[int, int], config: Mapping[str, Any]
) -> tuple[Tensor, Tensor, float]:
    """Return B, A and the scale of one module."""
    from peft.utils.other import get_pattern_key

    if missing := {"A", "B"} - parts.keys():
        raise FormatError(f"{file} holds no lora_{missing.pop()} of {path}", _SAVE)
    a, b = parts["A"], parts["B"]
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank = ranks.get(get_pattern_key(list(ranks), path), config["r"])
    alpha = alphas.get(get_pattern_key(list(alphas), path), config["lora_alpha"])
    m, n = shape
    for part, tensor, sizes in (("A", a, (rank, n)), ("B", b, (m, rank))):
        if tuple(tensor.shape) != sizes or tensor.dtype not in WEIGHT_DTYPES:
            raise FormatError(
                f"lora_{part} of {path} in {file} is {tensor.dtype} {list(tensor.shape)}; the base's matrix of "
                f"{m} x {n} and the config's rank {rank} make it {list(sizes)} of floating numbers",
                "give the base that the adapter was trained on",
            )
    return b, a, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

"""An expert as a whole Hugging Face checkpoint, which any program runs: every target matrix is W + U diag(d) Vh.

d = s (z - 1). Adding the change to W, instead of computing U diag(s z) Vh, leaves a matrix with z = 1 as it is, bit for
bit, and adds no rounding of the factors to the others.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from zfleet.errors import FormatError
from zfleet.formats.projection import Residual
from zfleet.models.bundle import text_files
from zfleet.models.checkpoint import INDEX, checkpoint_files
from zfleet.models.matrices import target_matrices
from zfleet.models.shell import shell
from zfleet.models.weight_files import write_weight_files
from zfleet.svf.directions import changes
from zfleet.svf.folder import FactorFolder
from zfleet.svf.mapped import map_tensors
from zfleet.svf.stored import WEIGHT_DTYPES
from zfleet.svf.streamed import Conversion
from zfleet.svf.zvector import ZVector

_ROWS = 1024
_LICENCES = "LICEN[CS]E*"
_DTYPE_FIELDS = ("dtype", "torch_dtype")


def export_merged(
    z: ZVector,
    factors: FactorFolder,
    base: Path,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    advance: Callable[[int], object] = lambda _: None,
    metadata: Mapping[str, str] | None = None,
) -> list[Residual]:
    """Write the base with an expert's matrices: weights in files of 1 GiB, config, tokenizer and licence.

    Computed and written in parts of 1,024 rows: besides one matrix's factors in float64, hardly anything is in memory.

    Args:
        z: The expert.
        factors: Those that it was trained on.
        base: The base's folder.
        folder: Written here; it exists and is empty.
        dtype: What all weights are stored in; None: each in what the base has it in.
        advance: Called with the bytes of each weight when it is done.
        metadata: Of the files of weights, besides the format.

    Returns:
        For each target matrix its change, and what rounding to the stored type adds to it.

    Raises:
        WrongBase, InvalidZ: The z belongs to another base or other factors.
        BaseModelError, FactorsError: Base or factors are damaged.
        FormatError: A target matrix shares its weight with another one, or does not fit ``dtype``.
        OSError: The disk is full.
    """
    z.check_fits(base=factors.base, factors=factors.digest, layout=factors.layout)
    stored = target_matrices(base, factors.base, z.targets).matrices
    _refuse_tied(base, [one.name for one in stored])
    names = {(one.file, one.key): one.name for one in stored}
    weights: dict[str, Conversion] = {}
    rounding: dict[str, Residual] = {}
    for file in checkpoint_files(base):
        for key, tensor in map_tensors(file).items():
            kind = dtype if dtype is not None and tensor.dtype in WEIGHT_DTYPES else tensor.dtype
            name = names.get((file, key))
            if name is None:
                weights[key] = Conversion.by_rows(tensor, kind)
            else:
                weights[key] = _merged(name, tensor, z.values[name], factors, kind, rounding)
    write_weight_files(weights, folder, advance, metadata)
    for path in text_files(base):
        if path.name != INDEX:
            shutil.copyfile(path, folder / path.name)
    for path in base.glob(_LICENCES):
        shutil.copyfile(path, folder / path.name)
    if dtype is not None:
        _write_dtype(folder / "config.json", str(dtype).removeprefix("torch."))
    return [rounding[name] for name in factors.names]


def _merged(
    name: str, weight: Tensor, z: Tensor, factors: FactorFolder, dtype: torch.dtype, rounding: dict[str, Residual]
) -> Conversion:
    """Describe W' of one matrix; when it has been written, ``rounding`` has its entry."""

    def parts() -> Iterator[Tensor]:
        matrix = factors.matrix(name)
        d = changes(z, matrix.s)
        moved = d.nonzero().squeeze(1)
        vh = d[moved].unsqueeze(1) * matrix.vh[moved].double()
        squares = 0.0
        for rows, u in zip(weight.split(_ROWS), matrix.u.split(_ROWS), strict=True):
            exact = torch.addmm(rows.double(), u[:, moved].double(), vh) if len(moved) else rows.double()
            part = exact.to(dtype)
            if not bool(torch.isfinite(part).all()):
                raise FormatError(
                    f"{name} holds {float(exact.abs().max()):.3g}, which {dtype} cannot hold",
                    "export it in the base's own type, or in bfloat16",
                )
            squares += float((part.double() - exact).square().sum())
            yield part
        rounding[name] = Residual(name, float(d.norm()), math.sqrt(squares))

    return Conversion(dtype, tuple(weight.shape), parts)


def _refuse_tied(base: Path, names: list[str]) -> None:
    model = shell(base)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(head, "weight", None) is not embeddings.weight:
        return
    for path, module in model.named_modules():
        if module is head and path in names:
            raise FormatError(
                f"{path} shares its weight with the embeddings, which the expert does not change",
                "a checkpoint cannot hold this expert: export it as a LoRA adapter",
            )


def _write_dtype(path: Path, dtype: str) -> None:
    def changed(value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {key: dtype if key in _DTYPE_FIELDS and part else changed(part) for key, part in value.items()}

    config = json.loads(path.read_text())
    fresh = changed({"dtype": dtype, **config})
    path.write_text(json.dumps(fresh, indent=2) + "\n")

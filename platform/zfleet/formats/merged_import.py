"""A fine-tuned checkpoint of a base as an expert: the z that is nearest to W', and all that it leaves out.

Every parameter of both is compared. What changed outside of the target matrices, as norms or embeddings do in a full
fine-tuning, no z can express: it counts as residual, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from zfleet.errors import BaseModelError, FormatError
from zfleet.formats.projection import Residual, project_dense
from zfleet.models.checkpoint import Checkpoint, Place
from zfleet.models.families import sees
from zfleet.models.fingerprint import VOLATILE, fingerprint, read_config
from zfleet.models.shell import language_tower, shell
from zfleet.svf.folder import FactorFolder
from zfleet.svf.layout import target_names
from zfleet.svf.mapped import map_tensors
from zfleet.svf.zvector import ZVector

_ROWS = 1024
_NO_FUNCTION = {"architectures", "bos_token_id", "eos_token_id", "pad_token_id"}
"""Fields of a config that change no logits: where generation starts and ends is the base's matter."""
_DIVERGED = "the training diverged: give an earlier checkpoint of it"
_OTHER = "give the base that the checkpoint was fine-tuned from"


@dataclass(frozen=True, eq=False)
class ChangedCheckpoint:
    """What a checkpoint changes of a base.

    Attributes:
        folder: Of the checkpoint.
        fingerprint: Of the checkpoint.
        matrices: {matrix: W and W' in their files}, of the linears that differ.
        others: Of each other parameter that differs, its change, all of which is residual.
    """

    folder: Path
    fingerprint: str
    matrices: Mapping[str, tuple[Place, Place]]
    others: tuple[Residual, ...]

    def z_on(self, factors: FactorFolder) -> tuple[ZVector, list[Residual]]:
        """Project every matrix that differs; the others keep z = 1. One matrix at a time is in memory.

        Args:
            factors: Of the base; they hold every matrix of ``matrices``.

        Returns:
            The nearest z, and what it leaves out of each parameter that differs.

        Raises:
            FormatError: A weight of the checkpoint is not finite.
            FactorsError: The factors are damaged.
        """
        values = {name: torch.ones(rank) for name, rank in zip(factors.names, factors.layout.ranks, strict=True)}
        residuals = []
        for name, (before, after) in self.matrices.items():
            change = _read(after).double()
            if not bool(torch.isfinite(change).all()):
                raise FormatError(f"{after.key} in {after.file} holds NaN or infinite values", _DIVERGED)
            change -= _read(before)
            values[name], residual = project_dense(name, change, factors.matrix(name))
            residuals.append(residual)
        return ZVector(values, factors.base, factors.digest, factors.targets), [*residuals, *self.others]


def read_checkpoint(folder: Path, base: Path, targets: str) -> ChangedCheckpoint:
    """Compare a checkpoint with its base, parameter by parameter, in the precision of the checkpoint.

    Args:
        folder: Of the checkpoint: a Hugging Face folder with safetensors weights.
        base: The base's folder.
        targets: The linears that a z may scale.

    Raises:
        FormatError: Another model than the base (names the config's field), nothing that differs, or weights that are
            missing, damaged, quantized or of another shape.
        SpecError: ``targets`` is invalid or matches nothing.
    """
    _check_same_model(folder, base)
    model = shell(base)
    tower = language_tower(model) if sees(read_config(base)) else model
    linears = {id(tower.get_parameter(f"{name}.weight")): name for name in target_names(tower, targets)}
    try:
        checkpoint = Checkpoint(folder, model)
        places = {name: checkpoint.find(parameter) for name, parameter in model.named_parameters()}
        digest = fingerprint(folder)
    except BaseModelError as error:
        raise FormatError(f"the checkpoint cannot be read: {error.message}", "save it with save_pretrained") from error
    origin = Checkpoint(base, model)
    if extra := sorted(set(checkpoint.unknown) - set(origin.unknown)):
        raise FormatError(f"{folder} holds {extra[0]}, which the base does not have", _OTHER)
    matrices: dict[str, tuple[Place, Place]] = {}
    others: list[Residual] = []
    for name, parameter in model.named_parameters():
        before, after = origin.find(parameter), places[name]
        old, new = _read(before), _read(after)
        if torch.equal(old.to(new.dtype), new):
            continue
        if id(parameter) in linears:
            matrices[linears[id(parameter)]] = (before, after)
        else:
            change = _distance(old, new)
            if not math.isfinite(change):
                raise FormatError(f"{after.key} in {after.file} holds NaN or infinite values", _DIVERGED)
            others.append(Residual(name, change, change))
    if not matrices and not others:
        raise FormatError(f"{folder} holds the very weights of the base", "give a checkpoint that was fine-tuned")
    return ChangedCheckpoint(folder, digest, matrices, tuple(others))


def _read(place: Place) -> Tensor:
    """Map a weight, read-only."""
    return map_tensors(place.file)[place.key]


def _distance(old: Tensor, new: Tensor) -> float:
    parts = zip(old.split(_ROWS), new.split(_ROWS), strict=True)
    return float(torch.stack([(b.double() - a.double()).norm() for a, b in parts]).norm())


def _check_same_model(folder: Path, base: Path) -> None:
    try:
        ours, theirs = (_function(one) for one in (base, folder))
    except BaseModelError as error:
        raise FormatError(f"the checkpoint cannot be read: {error.message}", "give a Hugging Face folder") from error
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise FormatError(
                f"{folder} has {key} {theirs.get(key)!r} in its config.json, the base has {ours.get(key)!r}", _OTHER
            )


def _function(folder: Path) -> dict[str, Any]:
    """Return the fields of a config that change the model's function, defaults filled in."""
    read_config(folder)
    try:
        config = AutoConfig.from_pretrained(folder).to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"{folder}: {error}") from error
    function: dict[str, Any] = _without(config, VOLATILE | _NO_FUNCTION)
    return function


def _without(value: Any, keys: Set[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without(part, keys) for key, part in value.items() if key not in keys}

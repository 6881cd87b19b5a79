"""Where the target matrices of a base are in its files; no weight is read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from zfleet.errors import BaseModelError
from zfleet.models.base import language_tower
from zfleet.models.families import check_family, sees
from zfleet.models.fingerprint import read_config, weight_files
from zfleet.svf.layout import target_names
from zfleet.svf.stored import Entry, StoredMatrix, TargetMatrices, read_entries

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_REMEDY = "fetch the base again"


def target_matrices(folder: Path, base: str, targets: str = "all") -> TargetMatrices:
    """Find each target matrix of a base in its files, in the order of its modules; no weight is read.

    Modules have the names that they have in the base as it is loaded: those of a vision-language model's language tower
    are what they would be alone. A matrix that shares its weight with another one (tied embeddings) may lie under the
    other's name.

    Args:
        folder: A Hugging Face folder with safetensors weights.
        base: Its fingerprint.
        targets: ``mlp``, ``attention``, ``all`` or a pattern over whole module paths.

    Raises:
        BaseModelError: No base of a supported family, or its files are damaged or lack a matrix.
        SpecError: ``targets`` is invalid or matches nothing.
    """
    config = read_config(folder)
    check_family(config, folder.name)
    model = _shell(folder, sees(config))
    linears = language_tower(model) if sees(config) else model
    stored = _stored(model, checkpoint_files(folder))
    names = _names(model)
    matrices = []
    for name in target_names(linears, targets):
        weight = linears.get_parameter(f"{name}.weight")
        place = next((one for one in names[id(weight)] if one in stored), None)
        if place is None:
            raise BaseModelError(f"base folder {folder} holds no weight of {name}", _REMEDY)
        file, key, entry = stored[place]
        if entry.shape != tuple(weight.shape):
            raise BaseModelError(
                f"{key} in {file} is {list(entry.shape)}, the base's config.json says {list(weight.shape)}", _REMEDY
            )
        if entry.dtype is None:
            raise BaseModelError(f"{key} in {file} is quantized", "use the base as it was before, in 16 or 32 bits")
        matrices.append(StoredMatrix(name, file, key, (entry.shape[0], entry.shape[1]), entry.dtype))
    return TargetMatrices(base, targets, tuple(matrices))


def checkpoint_files(folder: Path) -> list[Path]:
    """List the files that the base is loaded from, absolute: one, or the shards that its index names.

    Raises:
        BaseModelError: There are none, or the index cannot be read.
    """
    weight_files(folder)
    whole, index = folder.resolve() / _WHOLE, folder.resolve() / _INDEX
    if whole.is_file():
        return [whole]
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelError(f"{folder} holds no {_WHOLE}, and {index} cannot be read: {error}", _REMEDY) from error
    return [index.with_name(str(shard)) for shard in sorted(shards)]


def _shell(folder: Path, seeing: bool) -> PreTrainedModel:
    """Build the base's modules, without memory for their weights."""
    kind = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"base folder {folder} cannot be loaded: {error}", "give a Hugging Face causal LM folder"
        ) from error
    return model


def _stored(model: PreTrainedModel, files: list[Path]) -> dict[str, tuple[Path, str, Entry]]:
    """Map parameters to {name: (file, key, entry)}, renamed as transformers renames them when it loads a model."""
    parameters = model.state_dict()
    prefix = model.base_model_prefix
    renamings = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]
    stored: dict[str, tuple[Path, str, Entry]] = {}
    for file in files:
        for key, entry in read_entries(file).items():
            name, _ = rename_source_key(key, renamings, [], prefix, parameters)
            if name not in parameters and key in parameters:
                name, _ = rename_source_key(key, [], [], prefix, parameters)
            stored[name] = file, key, entry
    return stored


def _names(model: nn.Module) -> dict[int, list[str]]:
    """Map the identity of each parameter to its names: tied ones have several, an output layer's own first."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).insert(0, name)
    return names

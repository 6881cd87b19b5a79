"""The files that a base's weights are loaded from: which parameter is where, and whether all are there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from zfleet.errors import BaseModelError
from zfleet.models.fingerprint import weight_files
from zfleet.svf.stored import WEIGHT_DTYPES, Entry, read_entries

INDEX = "model.safetensors.index.json"
"""Names the file of each weight, if there are several."""
_WHOLE = "model.safetensors"
_REMEDY = "fetch the base again"


@dataclass(frozen=True)
class Place:
    """Where a weight is.

    Attributes:
        file: The safetensors file.
        key: Its name there.
        entry: What the file says of it.
    """

    file: Path
    key: str
    entry: Entry


class Checkpoint:
    """The weights of a base in its files, by the names of the model's parameters. No weight is read.

    Attributes:
        folder: Of the base.
        unknown: Names in the files that are of nothing in the model; they are not loaded.
    """

    def __init__(self, folder: Path, model: PreTrainedModel) -> None:
        """Read the headers of the files.

        Args:
            folder: A Hugging Face folder with safetensors weights.
            model: Its modules, as ``shell`` builds them.

        Raises:
            BaseModelError: There are no files, or they are damaged.
        """
        self.folder = folder
        self._names = _names(model)
        self._stored = _stored(model, checkpoint_files(folder))
        known = model.state_dict().keys()
        self.unknown = [place.key for name, place in self._stored.items() if name not in known]

    def find(self, weight: nn.Parameter) -> Place:
        """Find a weight of the model, which may lie under the name of one that it is tied to.

        Raises:
            BaseModelError: It is not there, has another shape, or is quantized.
        """
        names = self._names[id(weight)]
        place = next((self._stored[name] for name in names if name in self._stored), None)
        if place is None:
            raise BaseModelError(
                f"base folder {self.folder} holds no weight of {names[0].removesuffix('.weight')}", _REMEDY
            )
        if place.entry.shape != tuple(weight.shape):
            raise BaseModelError(
                f"{place.key} in {place.file} is {list(place.entry.shape)}, "
                f"the base's config.json says {list(weight.shape)}",
                _REMEDY,
            )
        if place.entry.dtype not in WEIGHT_DTYPES:
            raise BaseModelError(
                f"{place.key} in {place.file} is quantized", "use the base as it was before, in 16 or 32 bits"
            )
        return place

    def check(self, model: PreTrainedModel) -> None:
        """Check that every parameter of the model is there: transformers would draw missing ones at random.

        Raises:
            BaseModelError: As ``find``.
        """
        for parameter in model.parameters():
            self.find(parameter)


def checkpoint_files(folder: Path) -> list[Path]:
    """List the files that the base is loaded from, absolute: one, or the shards that its index names.

    Raises:
        BaseModelError: There are none, or the index cannot be read.
    """
    weight_files(folder)
    whole, index = folder.resolve() / _WHOLE, folder.resolve() / INDEX
    if whole.is_file():
        return [whole]
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelError(f"{folder} holds no {_WHOLE}, and {index} cannot be read: {error}", _REMEDY) from error
    return [index.with_name(str(shard)) for shard in sorted(shards)]


def _stored(model: PreTrainedModel, files: list[Path]) -> dict[str, Place]:
    """Map parameters to their places, renamed as transformers renames them when it loads a model."""
    parameters = model.state_dict()
    prefix = model.base_model_prefix
    renamings = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]
    stored: dict[str, Place] = {}
    for file in files:
        for key, entry in read_entries(file).items():
            name, _ = rename_source_key(key, renamings, [], prefix, parameters)
            if name not in parameters and key in parameters:
                name, _ = rename_source_key(key, [], [], prefix, parameters)
            stored[name] = Place(file, key, entry)
    return stored


def _names(model: nn.Module) -> dict[int, list[str]]:
    """Map the identity of each parameter to its names: tied ones have several, an output layer's own first."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).insert(0, name)
    return names

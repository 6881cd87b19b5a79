"""Open a GGUF file, and refuse what zfleet cannot convert before any weight is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zfleet.errors import BaseModelError
from zfleet.models.gguf.architectures import ARCHITECTURES, Architecture

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

FETCH = "fetch the file again"
CONVERT = "convert the model again with a current llama.cpp, or use its Hugging Face folder"

TYPES = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4"),
)
"""Types of tensors that the ``gguf`` package dequantises, each tensor by itself.

Left out: types of activations (Q8_1, Q8_K), integers, and NVFP4, whose scales are tensors of their own.
"""

_MAGIC = b"GGUF"


class GgufFile:
    """A GGUF file of a supported architecture, all of its tensors in place and of types that can be dequantised.

    Attributes:
        path: Of the file.
        architecture: Of its model.
        tensors: {name: tensor}, mapped from the file; shapes are in GGUF's order, the reverse of PyTorch's.
    """

    def __init__(self, path: Path) -> None:
        """Read metadata and table of tensors.

        Raises:
            BaseModelError: No GGUF file, truncated, one part of several, or of an architecture or a type of tensors
                that is not supported; each is named.
        """
        self.path = path
        self._reader = _read(path)
        if self._reader.byte_order == "S":
            raise BaseModelError(f"{path} has the byte order of another kind of processor", CONVERT)
        if self.get("split.count", 0) > 1:
            raise BaseModelError(
                f"{path} is one part of {self.get('split.count')}",
                "join the parts with `llama-gguf-split --merge`, and give the file that it writes",
            )
        name = self.get("general.architecture")
        if name not in ARCHITECTURES:
            raise BaseModelError(
                f"{path} names no GGUF architecture"
                if not name
                else f"{path} has GGUF architecture {name!r}, which zfleet does not support",
                f"use a model of {', '.join(ARCHITECTURES)} (files of Mistral models say llama)",
            )
        self.architecture: Architecture = ARCHITECTURES[name]
        self.tensors: Mapping[str, ReaderTensor] = {tensor.name: tensor for tensor in self._reader.tensors}
        for tensor in self._reader.tensors:
            if tensor.tensor_type.name not in TYPES:
                raise _unsupported_type(path, f"{tensor.name} of type {tensor.tensor_type.name}")

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key of the metadata: a number, a text, or a list of them."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def settings(self) -> dict[str, Any]:
        """Return the metadata under the architecture's name, without that name: {"block_count": 30, ...}."""
        prefix = f"{self.architecture.name}."
        return {key.removeprefix(prefix): self.get(key) for key in self._reader.fields if key.startswith(prefix)}

    def types(self) -> dict[str, int]:
        """Count the tensors of each type: {"Q4_1": 210, "F32": 61}, the most frequent first."""
        return dict(Counter(tensor.tensor_type.name for tensor in self.tensors.values()).most_common())


def _read(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    try:
        with path.open("rb") as file:
            begins = file.read(len(_MAGIC))
        if begins != _MAGIC:
            raise BaseModelError(
                f"{path} is no GGUF file: it begins with {begins!r}, not with {_MAGIC!r}",
                "give a GGUF file or a Hugging Face model folder",
            )
        return GGUFReader(path)
    except OSError as error:
        raise BaseModelError(f"{path} cannot be read: {error}", "check the path") from error
    # What the reader raises where a file ends too early, or a count or a type in it makes no sense.
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        if unknown := re.search(r"(\d+)\)? is not a valid GGMLQuantizationType", str(error)):
            raise _unsupported_type(path, f"a tensor of the unknown type {unknown[1]}") from error
        if version := re.search(r"file appears to be version (\d+)", str(error)):
            raise BaseModelError(f"{path} is GGUF version {version[1]}; zfleet reads 2 and 3", CONVERT) from error
        raise BaseModelError(
            f"{path} is truncated or damaged: it ends too early, or a size in it makes no sense", FETCH
        ) from error


def _unsupported_type(path: Path, what: str) -> BaseModelError:
    return BaseModelError(
        f"{path} holds {what}, which zfleet does not dequantise", f"use a file with tensors of {', '.join(TYPES)}"
    )

"""The fingerprint of a base: a digest of its config and weights, independent of where they lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors
from safetensors import safe_open

from zfleet.errors import BaseModelError
from zfleet.svf.digest import tensor_bytes

_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}


def fingerprint(folder: Path) -> str:
    """Compute sha256 over the config (less fields that do not change the function) and every weight, by name.

    Raises:
        BaseModelError: No config, no safetensors weights, or a damaged file.
    """
    state = hashlib.sha256()
    config = {key: value for key, value in read_config(folder).items() if key not in _VOLATILE}
    state.update(json.dumps(config, sort_keys=True).encode())
    files = weight_files(folder)
    owner: dict[str, Path] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                owner |= dict.fromkeys(tensors.keys(), file)
        except (safetensors.SafetensorError, OSError) as error:
            raise BaseModelError(f"{file} is truncated or damaged: {error}", "fetch the base again") from error
    for name in sorted(owner):
        with safe_open(owner[name], "pt") as tensors:
            tensor = tensors.get_tensor(name)
        state.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        state.update(tensor_bytes(tensor))
    return state.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a base folder.

    Raises:
        BaseModelError: There are none (weights in pickle form are not loaded).
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        quantized = sorted(folder.glob("*.gguf"))
        if quantized:
            raise BaseModelError(f"base folder {folder} holds GGUF files", f"give one of them, such as {quantized[0]}")
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        content = f"only {pickled[0]}, a pickle that is not loaded" if pickled else "no weights"
        raise BaseModelError(
            f"base folder {folder} holds {content}", "give a Hugging Face folder with *.safetensors weights"
        )
    return files


def read_config(folder: Path) -> dict[str, object]:
    """Read a base folder's config.json.

    Raises:
        BaseModelError: It is missing or no JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path} cannot be read: {error}", "give a Hugging Face model folder") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{path} holds no JSON object", "give a Hugging Face model folder")
    return config

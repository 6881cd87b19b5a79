"""The fingerprint of a base: a digest of its config and weights, independent of where they lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from zfleet.errors import BaseModelError
from zfleet.remembered import pieces, remembered
from zfleet.svf.stored import Entry, read_entries

VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}


def fingerprint(folder: Path) -> str:
    """Compute sha256 over the config (less fields that do not change the function) and every weight, by name.

    Files are read in pieces, and not read again while they stay as they are (``zfleet.remembered``).

    Raises:
        BaseModelError: No config, no safetensors weights, or a damaged file.
    """
    config = {key: value for key, value in read_config(folder).items() if key not in VOLATILE}
    files = weight_files(folder)
    return remembered("fingerprint", [folder / "config.json", *files], lambda: _fingerprint(config, files))


def _fingerprint(config: dict[str, object], files: list[Path]) -> str:
    state = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    places: dict[str, tuple[Path, Entry]] = {}
    for file in files:
        places |= {name: (file, entry) for name, entry in read_entries(file).items()}
    for name in sorted(places):
        file, entry = places[name]
        if entry.dtype is None:
            raise BaseModelError(f"{name} in {file} is of a type that PyTorch has not", "use a base in 16 or 32 bits")
        state.update(f"{name}\0{entry.dtype}\0{list(entry.shape)}\0".encode())
        for piece in pieces(file, entry.start, entry.size):
            state.update(piece)
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

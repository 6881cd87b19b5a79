"""Loading a base: an ordinary Hugging Face causal LM, alone or in a vision-language model, from a folder or hub id."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from zfleet.errors import BaseModelError
from zfleet.models.checkpoint import Checkpoint
from zfleet.models.families import check_family, sees
from zfleet.models.fingerprint import fingerprint, read_config, weight_files
from zfleet.models.gguf.folders import SUFFIX, is_gguf
from zfleet.models.images import ImageReader, Vision
from zfleet.models.known import how_to_get, known_folder
from zfleet.models.mapped_weights import mapped_weights
from zfleet.models.shell import language_tower, shell

_NAME_LENGTH = 60
_SOURCES = "give a Hugging Face model folder, a GGUF file, or a hub id (OWNER/NAME) that this machine can reach"
_IGNORED = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "original/*")


@dataclass(frozen=True, eq=False)
class Base:
    """One base, loaded.

    Attributes:
        name: What people call it; the first part of ``model`` in requests.
        fingerprint: Digest of config and weights.
        model: The causal LM, in evaluation mode; of a vision-language model its language tower, under the names that
            it would have alone.
        tokenizer: Its tokenizer.
        vision: Reads images; None if the base takes none.
    """

    name: str
    fingerprint: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    vision: Vision | None = None

    @property
    def slug(self) -> str:
        """Name and fingerprint in one: part of a registered expert's name."""
        return base_slug(self.name, self.fingerprint)

    @property
    def context(self) -> int:
        """The longest sequence the base takes, in tokens."""
        return context_of(self.model.config)


def context_of(config: PreTrainedConfig) -> int:
    """Return the longest sequence that a causal LM takes, in tokens."""
    return int(getattr(config, "max_position_embeddings", 2048))


def base_slug(name: str, fingerprint: str) -> str:
    """Name a base uniquely: ``lab`` with fingerprint 1a2b3c4d... is ``lab-1a2b3c4d``."""
    return f"{name}-{fingerprint[:8]}"


def base_name(source: str) -> str:
    """Shorten a folder, GGUF file or hub id to its last part, in characters and a length that names may have."""
    last = source.rstrip("/").rsplit("/", 1)[-1]
    last = last[: -len(SUFFIX)] if is_gguf(last) else last
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")[:_NAME_LENGTH] or "base"


def find_base(source: str) -> Path:
    """Find the folder of a base: as ``local_folder``, or a hub id's files, fetched if the hub is reachable.

    Raises:
        BaseModelError: As ``local_folder``, or an id that cannot be fetched.
    """
    if (folder := local_folder(source)) is not None:
        return folder
    return hub_folder(source)


def hub_folder(model: str, revision: str | None = None, local: bool = False) -> Path:
    """Fetch a base from the hub into the hub's own cache.

    Args:
        model: Its id.
        revision: The commit; None: the newest.
        local: Take it from the hub's cache only; it may be there in part.

    Raises:
        BaseModelError: It cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, ignore_patterns=list(_IGNORED), local_files_only=local))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BaseModelError(f"base {model!r} is no folder, and as a hub id: {reason}", _SOURCES) from error


def local_folder(source: str) -> Path | None:
    """Return the folder of a base; None if the source is a hub id.

    Args:
        source: The name of a known base, a folder, a GGUF file, which is converted the first time, or a hub id.

    Raises:
        BaseModelError: A known base that was not fetched, a GGUF file that cannot be converted, or neither a folder nor
            a file nor written as a hub id.
    """
    if (known := known_folder(source)) is not None:
        return known
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if is_gguf(source) and path.is_file():
        from zfleet.models.gguf.convert import open_converted

        return open_converted(path)
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or is_gguf(source):
        raise BaseModelError(f"base {source!r} is no folder and no GGUF file", _SOURCES)
    if "/" not in source:
        raise BaseModelError(f"base {source!r} is no folder, and no base is known by that name", how_to_get())
    return None


def load_base(
    folder: Path, *, name: str | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Base:
    """Load a base folder.

    On a CPU its weights are maps of files (``zfleet.svf.mapped``), which all processes of a machine share: they can be
    replaced, and must not be written to.

    Args:
        folder: A Hugging Face folder with safetensors weights.
        name: What to call it; the folder's name when left out.
        device: Where the model goes.
        dtype: What the model computes in.

    Raises:
        BaseModelError: Not a causal LM folder, a family that is not supported, no weights, damaged files, or no room
            for a copy in this dtype.
    """
    name = name or base_name(str(folder))
    weight_files(folder)
    config = read_config(folder)
    check_family(config, name)
    digest = fingerprint(folder)
    try:
        tokenizer = load_tokenizer(folder)
        model = _load_model(folder, dtype)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"base folder {folder} cannot be loaded: {error}", "give a Hugging Face causal LM folder"
        ) from error
    model.train(False)
    try:
        torch.nn.Module.to(model, device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BaseModelError(
            f"base {folder} cannot be put on device {device!r}: {reason}",
            "set base.device to one that every worker has, and resources.gpus to match",
        ) from error
    if not sees(config):
        return Base(name, digest, model, tokenizer)
    vision = Vision(model, ImageReader.open(folder))
    vision.check()
    return Base(name, digest, language_tower(model), tokenizer, vision)


def _load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    # transformers draws a bar of its own, terminal or not.
    transformers_logging.disable_progress_bar()
    modules = shell(folder)
    Checkpoint(folder, modules).check(modules)
    written = (folder / "generation_config.json").is_file()
    model: PreTrainedModel = type(modules).from_pretrained(
        None,
        config=modules.config,
        # Taken as they are where their type is this one: transformers copies nothing.
        state_dict=mapped_weights(folder, dtype),
        dtype=dtype,
        generation_config=GenerationConfig.from_pretrained(folder) if written else None,
    )
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base folder, with its chat template, whichever file has it."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    # Older processors of vision-language models have it in this file.
    legacy = folder / "chat_template.json"
    if tokenizer.chat_template is None and legacy.exists():
        tokenizer.chat_template = json.loads(legacy.read_text())["chat_template"]
    return tokenizer

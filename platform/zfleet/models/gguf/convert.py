"""A GGUF file becomes a base folder in the cache: once, whole or not at all, addressed by the file's digest."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from zfleet.errors import BaseModelError
from zfleet.files import write_folder
from zfleet.locks import alone
from zfleet.models.fingerprint import fingerprint
from zfleet.models.gguf.config import read_config
from zfleet.models.gguf.folders import ORIGIN, Origin, converted_folder, read_origin
from zfleet.models.gguf.read import GgufFile
from zfleet.models.gguf.tokenizer import build_tokenizer
from zfleet.models.gguf.weights import PlannedWeight, plan_weights, write_weights
from zfleet.remembered import pieces, remembered, sha256_of

_GIB = 2**30


def open_converted(path: Path) -> Path:
    """Return the base folder of a GGUF file that stays where it is; the first time, the file is converted.

    A file that has not changed since is not read again (``zfleet.remembered``): to find the base of many gigabytes by
    their digest would take half a minute at every start.

    Raises:
        BaseModelError: As ``convert``.
    """
    folder = converted_folder(remembered("gguf", [path], lambda: read_origin(convert(path)).sha256))
    # The cache may have been emptied since.
    return folder if folder.is_dir() else convert(path)


def convert(path: Path) -> Path:
    """Convert a GGUF file into a base folder, unless it is there, and return the folder.

    Matrices are dequantised one after the other and written in files of 1 GiB, so that a base may be bigger than the
    memory. A conversion that was killed leaves nothing that is used. One process converts, others wait for it.

    Raises:
        BaseModelError: The file cannot be read or is not supported, its tokenizer cannot be rebuilt, or there is no
            room. All that the file says of itself is checked before the first weight is read.
    """
    prepared = _Prepared.of(GgufFile(path))
    digest = file_digest(path)
    folder = converted_folder(digest)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.parent / f".{folder.name}.lock", f"writes {folder}"):
            for leftover in folder.parent.glob(f".{folder.name}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if not folder.is_dir():
                _check_room(folder.parent, prepared.bytes)
                write_folder(folder, lambda temporary: prepared.write(temporary, digest))
    except OSError as error:
        raise BaseModelError(
            f"{path} cannot be converted into {folder}: {error}",
            "make room there, or set ZFLEET_CACHE to another folder",
        ) from error
    return folder


def file_digest(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        BaseModelError: The file cannot be read.
    """
    try:
        return sha256_of(pieces(path))
    except OSError as error:
        raise BaseModelError(f"{path} cannot be read: {error}", "check the path") from error


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A GGUF file that can be converted, and all that the base gets besides its weights."""

    file: GgufFile
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    weights: list[PlannedWeight]

    @classmethod
    def of(cls, file: GgufFile) -> _Prepared:
        config = read_config(file)
        weights = plan_weights(file, config)
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
        # What most weights are stored in: the type that others are loaded in where nobody says which.
        config.dtype = max(weights, key=lambda weight: weight.bytes).dtype
        return cls(file, config, build_tokenizer(file), weights)

    @property
    def bytes(self) -> int:
        return sum(weight.bytes for weight in self.weights)

    def write(self, folder: Path, digest: str) -> None:
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"converting {self.file.path.name}", total=self.bytes)
            write_weights(self.weights, folder, lambda done: bar.advance(task, done))
        self.config.save_pretrained(folder)
        self._generation().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        origin = Origin(
            file=self.file.path.name,
            sha256=digest,
            architecture=self.file.architecture.name,
            name=self.file.get("general.name"),
            licence=self.file.get("general.license"),
            types=self.file.types(),
            parameters=sum(weight.numbers for weight in self.weights),
            fingerprint=fingerprint(folder),
        )
        (folder / ORIGIN).write_text(json.dumps(asdict(origin), indent=2) + "\n")
        for written in folder.iterdir():
            with written.open("rb") as file:
                os.fsync(file.fileno())

    def _generation(self) -> GenerationConfig:
        """Say which tokens end an answer: the end of a text, and those that end a turn or a message."""
        config = self.config
        ends = [self.file.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
        distinct = list(dict.fromkeys(token for token in ends if token is not None))
        return GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=distinct[0] if len(distinct) == 1 else distinct or None,
            pad_token_id=config.pad_token_id,
        )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{needed / _GIB:.2f} GiB are needed, {free / _GIB:.2f} GiB are free")

"""A base and its factors as bytes, to be opened on another machine.

Nothing that runs elsewhere reads a path of the machine it was started from, and nobody computes factors again:
a z means something only on the factors it was trained on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedTokenizerBase

from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError
from zfleet.models.base import Base, base_name, base_slug, find_base, load_base, load_tokenizer
from zfleet.models.families import sees
from zfleet.models.images import ImageReader
from zfleet.models.matrices import target_matrices
from zfleet.models.sharded import open_sharded
from zfleet.models.svf_model import SvfModel
from zfleet.paths import cache_root
from zfleet.svf.cache import FactorCache
from zfleet.svf.folder import FactorFolder

_TEXT = ("*.json", "*.jinja", "*.model", "*.txt")
_WEIGHTS = ("*.safetensors",)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class BaseBundle:
    """Files of a base and of its factors.

    Attributes:
        name: What people call the base.
        fingerprint: Its fingerprint.
        spec: How it computes, and which matrices are decomposed.
        text: {file name: bytes} of its configuration and tokenizer.
        weights: {file name: bytes} of its weights.
        factors: {file name: bytes} of its factors.
        context: The longest sequence the base takes, in tokens.
        factors_digest: Identity of the factors.
    """

    name: str
    fingerprint: str
    spec: BaseSpec
    text: Mapping[str, bytes]
    weights: Mapping[str, bytes]
    factors: Mapping[str, bytes]
    context: int
    factors_digest: str

    @property
    def slug(self) -> str:
        """Name and fingerprint: the qualifier of its experts in the registry."""
        return base_slug(self.name, self.fingerprint)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Open the base's tokenizer, without its weights."""
        return open_tokenizer(self.text)

    def image_reader(self) -> ImageReader | None:
        """Open the reader of the base's images, without its weights; None if it takes none."""
        if not sees(json.loads(self.text["config.json"])):
            return None
        with tempfile.TemporaryDirectory(prefix="zfleet-processor-") as folder:
            _write(Path(folder), self.text)
            return ImageReader.open(Path(folder))

    def unpack(self, folder: Path) -> tuple[Path, Path]:
        """Write the base and its factors into two folders below ``folder``, and name them."""
        model, factors = folder / "model", folder / "factors"
        _write(model, {**self.text, **self.weights})
        _write(factors, self.factors)
        return model, factors

    def open(self, mesh: DeviceMesh | None = None) -> SvfModel:
        """Open the base in SVF form.

        Args:
            mesh: Processes to split it over, with devices of the spec's kind; each calls this.

        Raises:
            BaseModelError: What arrived is not the base that was packed, or cannot be split.
            FactorsError: Factors that are damaged.
        """
        with tempfile.TemporaryDirectory(prefix="zfleet-base-") as folder:
            model, factors = self.unpack(Path(folder))
            if mesh is not None:
                return open_sharded(self._load(model, "cpu"), factors, self.spec.targets, mesh)
            base = self._load(model, self.spec.device)
            return SvfModel(base, FactorFolder(factors, self.fingerprint, self.spec.targets).load())

    def open_base(self) -> Base:
        """Open the base as it is.

        Raises:
            BaseModelError: What arrived is not the base that was packed.
        """
        with tempfile.TemporaryDirectory(prefix="zfleet-base-") as folder:
            _write(Path(folder), {**self.text, **self.weights})
            return self._load(Path(folder), self.spec.device)

    def _load(self, folder: Path, device: str) -> Base:
        base = load_base(folder, name=self.name, device=device, dtype=_DTYPES[self.spec.dtype])
        if base.fingerprint != self.fingerprint:
            raise BaseModelError(
                f"base {self.name} arrived as {base.fingerprint[:12]}, packed was {self.fingerprint[:12]}",
                "use the same versions of torch, transformers and safetensors on all machines",
            )
        return base


def pack_base(spec: BaseSpec) -> BaseBundle:
    """Read a base and its factors, which are computed the first time, and verify both.

    Everything happens on the CPU: what packs a base need not have the device that it will run on.

    Args:
        spec: Which base; the lab base is built if it is not cached.

    Raises:
        BaseModelError: Neither the lab, nor a folder with weights, nor a hub id that can be fetched.
        FactorsError: The cached factors are damaged; names the file.
    """
    return pack_with_targets(spec, {spec.targets})[spec.targets]


def pack_with_targets(spec: BaseSpec, targets: Collection[str]) -> dict[str, BaseBundle]:
    """Pack the base with the factors of several targets, reading it once: {targets: as ``pack_base``}."""
    name, folder = locate_base(spec)
    # Loaded only to check that it can be: decomposing needs nothing but its files.
    base = load_base(folder, name=name)
    fingerprint, context = base.fingerprint, base.context
    del base
    text, weights = _read(folder, _TEXT), _read(folder, _WEIGHTS)
    cache = FactorCache(cache_root() / "factors")

    def pack(spec: BaseSpec) -> BaseBundle:
        digest = cache.get(target_matrices(folder, fingerprint, spec.targets)).digest
        factors = _read(cache.folder(fingerprint, spec.targets), (*_TEXT, *_WEIGHTS))
        return BaseBundle(name, fingerprint, spec, text, weights, factors, context, digest)

    return {one: pack(spec.model_copy(update={"targets": one})) for one in targets}


def open_tokenizer(text: Mapping[str, bytes]) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a bundle's ``text``; the weights need not be there."""
    with tempfile.TemporaryDirectory(prefix="zfleet-tokenizer-") as folder:
        _write(Path(folder), text)
        return load_tokenizer(Path(folder))


def locate_base(spec: BaseSpec) -> tuple[str, Path]:
    """Find name and folder of a base; the lab base is built if it is not cached, a GGUF file is converted.

    Raises:
        BaseModelError: As ``find_base``.
    """
    if spec.model == "lab":
        from zfleet.models.lab.build import LabRecipe, build_lab

        return spec.name or "lab", build_lab(LabRecipe())
    return spec.name or base_name(spec.model), find_base(spec.model)


def _read(folder: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in patterns for path in sorted(folder.glob(pattern))}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)

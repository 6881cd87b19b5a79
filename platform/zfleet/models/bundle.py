"""A base and its factors on this node: where their files are, and how they are opened.

Nobody computes factors twice: a z means something only on the factors it was trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedTokenizerBase

from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError
from zfleet.models.base import Base, base_name, base_slug, context_of, find_base, load_base, load_tokenizer
from zfleet.models.checkpoint import Checkpoint
from zfleet.models.families import check_family, sees
from zfleet.models.fingerprint import fingerprint, read_config, weight_files
from zfleet.models.gguf.folders import ORIGIN
from zfleet.models.images import ImageReader
from zfleet.models.matrices import target_matrices
from zfleet.models.reference import BaseReference, FolderReference, StoredFile
from zfleet.models.sharded import open_sharded
from zfleet.models.shell import shell
from zfleet.models.svf_model import SvfModel
from zfleet.paths import cache_root
from zfleet.remembered import file_sha256
from zfleet.svf.cache import FactorCache
from zfleet.svf.folder import MANIFEST, FactorFolder
from zfleet.svf.matrix_file import matrix_file

_TEXT = ("*.json", "*.jinja", "*.model", "*.txt")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class BaseBundle:
    """A base whose files are on this node.

    Attributes:
        name: What people call the base.
        fingerprint: Its fingerprint.
        spec: How it computes, and which matrices are decomposed.
        context: The longest sequence the base takes, in tokens.
        factors_digest: Identity of the factors.
        model: Its folder.
        factors: The folder of its factors.
    """

    name: str
    fingerprint: str
    spec: BaseSpec
    context: int
    factors_digest: str
    model: Path
    factors: Path

    @property
    def slug(self) -> str:
        """Name and fingerprint: the qualifier of its experts in the registry."""
        return base_slug(self.name, self.fingerprint)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Open the base's tokenizer, without its weights."""
        return load_tokenizer(self.model)

    def image_reader(self) -> ImageReader | None:
        """Open the reader of the base's images, without its weights; None if it takes none."""
        return ImageReader.open(self.model) if sees(read_config(self.model)) else None

    def factor_folder(self) -> FactorFolder:
        """Open the folder of its factors; they are not read.

        Raises:
            FactorsError: They are missing or damaged, or other factors by now.
        """
        return FactorFolder(self.factors, self.fingerprint, self.spec.targets)

    def open(self, mesh: DeviceMesh | None = None) -> SvfModel:
        """Open the base in SVF form. Weights and factors on a CPU are mapped: all processes of the node share them.

        Args:
            mesh: Processes to split it over, with devices of the spec's kind; each calls this.

        Raises:
            BaseModelError: The folder holds another base by now, or the base cannot be split.
            FactorsError: Factors that are damaged.
        """
        if mesh is not None:
            return open_sharded(self._load("cpu"), self.factors, self.spec.targets, mesh)
        base, folder = self._load(self.spec.device), self.factor_folder()
        linears = {name: folder.linear(name, _DTYPES[self.spec.dtype]) for name in folder.names}
        return SvfModel(base, folder.load(), linears=linears)

    def open_base(self) -> Base:
        """Open the base as it is.

        Raises:
            BaseModelError: The folder holds another base by now.
        """
        return self._load(self.spec.device)

    def reference(self) -> BaseReference:
        """Describe the base for other nodes. Files are read once for their sha256, and not again while they stay.

        Raises:
            BaseModelError: A file cannot be read.
        """
        factors = [*(matrix_file(self.factors, name) for name in self.factor_folder().names), self.factors / MANIFEST]
        return BaseReference(
            self.name,
            self.fingerprint,
            self.spec,
            self.context,
            self.factors_digest,
            _described(f"base {self.name}", self.model, [*text_files(self.model), *weight_files(self.model)]),
            _described(f"factors of base {self.name}", self.factors, factors),
            _revision(self.spec.model, self.model),
        )

    def _load(self, device: str) -> Base:
        base = load_base(self.model, name=self.name, device=device, dtype=_DTYPES[self.spec.dtype])
        if base.fingerprint != self.fingerprint:
            raise BaseModelError(
                f"{self.model} holds base {base.fingerprint[:12]} by now, the job's is {self.fingerprint[:12]}",
                "put the base's files back, or start the job again with the new ones",
            )
        return base


def text_files(folder: Path) -> list[Path]:
    """List the files of a base folder besides its weights: config, tokenizer, templates."""
    # Where a base came from is no part of it: converted from two files, it is still the same base.
    return sorted(path for pattern in _TEXT for path in folder.glob(pattern) if path.name != ORIGIN)


def pack_base(spec: BaseSpec) -> BaseBundle:
    """Find a base and its factors, which are computed the first time, and verify both; no weight stays in memory.

    Everything happens on the CPU: this process need not have the device that the base will run on.

    Args:
        spec: Which base; the lab base is built if it is not cached.

    Raises:
        BaseModelError: Neither the lab, nor a folder with weights, nor a hub id that can be fetched; or its files do
            not fit its config.json.
        FactorsError: The cached factors are damaged; names the file.
    """
    return pack_with_targets(spec, {spec.targets})[spec.targets]


def pack_with_targets(spec: BaseSpec, targets: Collection[str]) -> dict[str, BaseBundle]:
    """Find the base with the factors of several targets: {targets: as ``pack_base``}."""
    name, folder = locate_base(spec)
    weight_files(folder)
    config = read_config(folder)
    check_family(config, name)
    digest = fingerprint(folder)
    modules = shell(folder)
    Checkpoint(folder, modules).check(modules)
    _check_texts(folder, reads_images=sees(config))
    context = context_of(modules.config.get_text_config())
    cache = FactorCache(cache_root() / "factors")

    def pack(spec: BaseSpec) -> BaseBundle:
        factors = cache.compute(target_matrices(folder, digest, spec.targets))
        factors.check()
        return BaseBundle(name, digest, spec, context, factors.digest, folder.absolute(), factors.path.absolute())

    return {one: pack(spec.model_copy(update={"targets": one})) for one in targets}


def locate_base(spec: BaseSpec) -> tuple[str, Path]:
    """Find name and folder of a base; the lab base is built if it is not cached, a GGUF file is converted.

    Raises:
        BaseModelError: As ``find_base``.
    """
    if spec.model == "lab":
        from zfleet.models.lab.build import LabRecipe, build_lab

        return spec.name or "lab", build_lab(LabRecipe())
    return spec.name or base_name(spec.model), find_base(spec.model)


def _check_texts(folder: Path, reads_images: bool) -> None:
    try:
        load_tokenizer(folder)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"base folder {folder} cannot be loaded: {error}", "give a Hugging Face causal LM folder"
        ) from error
    if reads_images:
        ImageReader.open(folder)


def _described(what: str, folder: Path, files: Iterable[Path]) -> FolderReference:
    try:
        found = tuple(StoredFile(path.name, path.stat().st_size, file_sha256(path)) for path in files)
    except OSError as error:
        raise BaseModelError(f"{what} cannot be read: {error}", "start the job again") from error
    return FolderReference(what, str(folder), found)


def _revision(model: str, folder: Path) -> str | None:
    """Return the commit of a folder in the hub's own cache, ``models--OWNER--NAME/snapshots/COMMIT``; else None."""
    in_cache = folder.parts[-3:-1] == (f"models--{model.replace('/', '--')}", "snapshots")
    return folder.name if in_cache else None

"""Where the target matrices of a base are in its files; no weight is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from zfleet.models.checkpoint import Checkpoint
from zfleet.models.families import check_family, sees
from zfleet.models.fingerprint import read_config
from zfleet.models.shell import language_tower, shell
from zfleet.svf.layout import target_names
from zfleet.svf.stored import StoredMatrix, TargetMatrices


def module_paths(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Map matrices to their module paths in the whole model, as ``from_pretrained`` builds it; no weight is read.

    They differ in a vision-language model only, of whose language tower a matrix has the name that it would have alone.

    Args:
        folder: A Hugging Face folder.
        names: Of matrices of the base, as ``target_matrices`` names them.

    Raises:
        BaseModelError: No model that transformers knows.
    """
    if not sees(read_config(folder)):
        return {name: name for name in names}
    model = shell(folder)
    tower = language_tower(model)
    paths = {id(module): path for path, module in model.named_modules()}
    return {name: paths[id(tower.get_submodule(name))] for name in names}


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
    model = shell(folder)
    linears = language_tower(model) if sees(config) else model
    checkpoint = Checkpoint(folder, model)
    matrices = []
    for name in target_names(linears, targets):
        place = checkpoint.find(linears.get_parameter(f"{name}.weight"))
        (m, n), dtype = place.entry.shape, place.entry.dtype
        assert dtype is not None
        matrices.append(StoredMatrix(name, place.file, place.key, (m, n), dtype))
    return TargetMatrices(base, targets, tuple(matrices))

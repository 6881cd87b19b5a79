"""The factors of a base on this machine, for the commands that read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from zfleet.config.specs import BaseSpec
from zfleet.errors import FactorsError

if TYPE_CHECKING:
    import torch

    from zfleet.svf.decompose import DecomposedMatrix
    from zfleet.svf.folder import FactorFolder
    from zfleet.svf.stored import StoredMatrix
    from zfleet.svf.zvector import ZVector


def compute_factors(spec: BaseSpec) -> FactorFolder:
    """Open the factors of a base. The first time they are computed, with a progress bar.

    Raises:
        BaseModelError, FactorsError: The base or its factors cannot be read.
    """
    from zfleet.models.bundle import locate_base
    from zfleet.models.fingerprint import fingerprint
    from zfleet.models.matrices import target_matrices
    from zfleet.paths import cache_root
    from zfleet.svf.cache import FactorCache, one_by_one

    name, base = locate_base(spec)

    def with_bar(todo: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype) -> Iterator[DecomposedMatrix]:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            yield from progress.track(one_by_one(todo, folder, dtype), len(todo), description=f"decomposing {name}")

    matrices = target_matrices(base, fingerprint(base), spec.targets)
    return FactorCache(cache_root() / "factors").compute(matrices, by=with_bar)


def factors_of(z: ZVector) -> FactorFolder:
    """Open the factors that a z was trained on, if this machine has them. They are never computed for it.

    Raises:
        FactorsError: They are not here, or damaged.
    """
    from zfleet.paths import cache_root
    from zfleet.svf.cache import FactorCache
    from zfleet.svf.folder import MANIFEST, FactorFolder

    folder = FactorCache(cache_root() / "factors").folder(z.base, z.targets)
    if not (folder / MANIFEST).exists():
        raise FactorsError(
            f"the factors of base {z.base[:12]}, targets {z.targets!r}, are not on this machine ({folder})",
            f"copy their folder here, or run `zfleet decompose --set base.model=MODEL --set base.targets={z.targets}`",
        )
    return FactorFolder(folder, z.base, z.targets)

"""A base's factors in this process, with a bar while they are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from zfleet.config.specs import BaseSpec

if TYPE_CHECKING:
    import torch

    from zfleet.svf.decompose import DecomposedMatrix
    from zfleet.svf.factors import Factors
    from zfleet.svf.stored import StoredMatrix


def open_factors(spec: BaseSpec) -> Factors:
    """The factors of a base, computed the first time.

    Raises:
        BaseModelError, FactorsError: The base or its factors cannot be read.
    """
    from zfleet.models.bundle import locate_base
    from zfleet.models.fingerprint import fingerprint
    from zfleet.models.matrices import target_matrices
    from zfleet.paths import cache_root
    from zfleet.svf.cache import FactorCache, one_by_one

    name, base = locate_base(spec)

    def shown(todo: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype) -> Iterator[DecomposedMatrix]:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            yield from progress.track(one_by_one(todo, folder, dtype), len(todo), description=f"decomposing {name}")

    matrices = target_matrices(base, fingerprint(base), spec.targets)
    return FactorCache(cache_root() / "factors").get(matrices, by=shown)

"""A base's factors, with a bar while they are computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from zfleet.config.specs import BaseSpec

if TYPE_CHECKING:
    from zfleet.svf.factors import Factors


def open_factors(spec: BaseSpec) -> tuple[str, Factors, Path]:
    """The slug of a base, its factors and the folder where those are kept; computed the first time.

    Raises:
        BaseModelError, FactorsError: The base or its factors cannot be read.
    """
    from zfleet.models.base import load_base
    from zfleet.models.bundle import locate_base
    from zfleet.paths import cache_root
    from zfleet.svf.cache import FactorCache

    name, folder = locate_base(spec)
    base = load_base(folder, name=name)
    cache = FactorCache(cache_root() / "factors")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"decomposing {name}", total=None)
        factors = cache.get(
            base.model,
            base.fingerprint,
            spec.targets,
            on_layer=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    dtype = next(iter(factors.matrices.values())).s.dtype
    return base.slug, factors, cache.folder(base.fingerprint, factors.targets, dtype)

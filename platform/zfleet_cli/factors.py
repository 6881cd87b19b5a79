"""A base's factors, with a bar while they are computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from zfleet.config.specs import BaseSpec

if TYPE_CHECKING:
    from zfleet.models.base import Base
    from zfleet.svf.factors import Factors


def open_factors(spec: BaseSpec) -> tuple[str, Factors, Path]:
    """The slug of a base, its factors and the folder where those are kept; computed the first time.

    Raises:
        BaseModelError, FactorsError: The base or its factors cannot be read.
    """
    base = open_base(spec)
    factors, folder = factors_of(base, spec.targets)
    return base.slug, factors, folder


def open_base(spec: BaseSpec) -> Base:
    """A base, loaded; the lab base is built where it is not cached.

    Raises:
        BaseModelError: It cannot be read.
    """
    from zfleet.models.base import load_base
    from zfleet.models.bundle import locate_base

    name, folder = locate_base(spec)
    return load_base(folder, name=name)


def factors_of(base: Base, targets: str) -> tuple[Factors, Path]:
    """The factors of a loaded base and the folder where those are kept; computed the first time.

    Raises:
        FactorsError: They are damaged.
    """
    from zfleet.paths import cache_root
    from zfleet.svf.cache import FactorCache

    cache = FactorCache(cache_root() / "factors")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"decomposing {base.name}", total=None)
        factors = cache.get(
            base.model,
            base.fingerprint,
            targets,
            on_layer=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    dtype = next(iter(factors.matrices.values())).s.dtype
    return factors, cache.folder(base.fingerprint, factors.targets, dtype)

"""``zfleet decompose``: the factors of a base, computed once."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from zfleet.config.load import load_job, load_spec
from zfleet.config.specs import ServeSpec
from zfleet_cli.options import OptionalSpecFile, Overrides


def decompose(spec: OptionalSpecFile = None, overrides: Overrides = None) -> None:
    """Compute the factors of a spec's base into the cache, and print their folder and digest.

    Any spec will do, for only its `base` counts; without one: --set base.model=FOLDER. A computation that was
    stopped goes on with the layer it was at.
    """
    # A serve spec is the one kind with a default for everything but the base.
    base = (load_spec(None, ServeSpec, overrides or ()) if spec is None else load_job(spec, overrides or ())).base
    from zfleet.models.base import load_base
    from zfleet.models.bundle import locate_base
    from zfleet.paths import cache_root
    from zfleet.svf.cache import FactorCache

    name, folder = locate_base(base)
    opened = load_base(folder, name=name)
    cache = FactorCache(cache_root() / "factors")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("decomposing", total=None)
        factors = cache.get(
            opened.model,
            opened.fingerprint,
            base.targets,
            on_layer=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    dtype = next(iter(factors.matrices.values())).s.dtype
    typer.echo(cache.folder(opened.fingerprint, factors.targets, dtype))
    typer.echo(f"base {opened.slug}, targets {factors.targets}, digest {factors.digest}")

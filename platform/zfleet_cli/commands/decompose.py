"""``zfleet decompose``: the factors of a base, computed once."""

from __future__ import annotations

import typer

from zfleet.config.load import load_job, load_spec
from zfleet.config.specs import ServeSpec
from zfleet_cli.factors import open_factors
from zfleet_cli.options import OptionalSpecFile, Overrides


def decompose(spec: OptionalSpecFile = None, overrides: Overrides = None) -> None:
    """Compute the factors of a spec's base into the cache, and print their folder and digest.

    Any spec will do, for only its `base` counts; without one: --set base.model=FOLDER. A computation that was
    stopped goes on with the layer it was at.
    """
    # A serve spec is the one kind with a default for everything but the base.
    spec_of_base = load_spec(None, ServeSpec, overrides or ()) if spec is None else load_job(spec, overrides or ())
    slug, factors, folder = open_factors(spec_of_base.base)
    typer.echo(folder)
    typer.echo(f"base {slug}, targets {factors.targets}, digest {factors.digest}")

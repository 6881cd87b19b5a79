"""``zfleet lab``: the base that needs no download."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The lab base: a small model that is built here.")


@app.callback()
def _group() -> None:
    """Keeps ``build`` a subcommand though it is the only one."""


@app.command()
def build(
    seed: Annotated[int | None, typer.Option(help="Of weights and corpus; the demo's by default.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of training; the demo's number by default.")] = None,
) -> None:
    """Build the lab base, about a minute on one core, and print its folder; found at once when it exists."""
    from zfleet.models.lab.build import LabRecipe, build_lab

    recipe = LabRecipe()
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    typer.echo(build_lab(recipe))

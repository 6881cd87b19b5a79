"""``zfleet lab``: build the lab base, which needs no download."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The lab base: a small model that is built here.")


@app.callback()
def _group() -> None:
    """Make ``build`` a subcommand: typer would run a single command without its name."""


@app.command()
def build(
    seed: Annotated[int | None, typer.Option(help="Seed of weights and corpus; by default the demo's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; by default the demo's.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Copy it to a folder, for `base.model` of a spec.", show_default=False),
    ] = None,
) -> None:
    """Build the lab base and print its folder. Takes about a minute on one core, and nothing if it exists.

    `base.model: lab` is the demo's; specs name one of another seed by the folder that --out copies it to.
    """
    from zfleet.models.lab.build import LabRecipe, build_lab, copy_lab

    recipe = LabRecipe()
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    typer.echo(build_lab(recipe) if out is None else copy_lab(out, recipe))

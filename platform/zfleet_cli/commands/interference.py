"""``zfleet experts interference``: how alike the changes of experts are, before anybody mixes them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zfleet.errors import SpecError
from zfleet_cli.commands.experts import find_version
from zfleet_cli.factors import factors_of
from zfleet_cli.options import AsJson, BaseSlug, Registry
from zfleet_cli.output import print_rows

if TYPE_CHECKING:
    from zfleet.svf.interference import Interference, Similarity
    from zfleet.svf.zvector import ZVector

_UNDEFINED = "undefined"


def interference(
    references: Annotated[
        list[str],
        typer.Argument(help="Two experts or mixtures of one base, or more: math code/3 exam-mix", show_default=False),
    ],
    registry: Registry = None,
    base: BaseSlug = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw heat maps.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare what experts change of their base, without running it: size, and angle and overlap of all pairs.

    The change of a direction is its singular value times z - 1. At 90 degrees they have nothing in common, above they
    oppose each other; an overlap of 0 means that they change different directions, 1 the same ones. Two experts are
    also compared matrix by matrix (--json: all). Needs the factors of their base on this machine, and no model.
    """
    from zfleet.svf.interference import predict_interference
    from zfleet_registry import ExpertRegistry

    experts = ExpertRegistry(registry)
    zs: dict[str, ZVector] = {}
    for reference in references:
        version = find_version(experts, reference, base)
        if version.reference in zs:
            raise SpecError(f"{version.reference} is named twice ({reference})", "name each version once")
        zs[version.reference] = experts.load(version)
    found = predict_interference(zs, factors_of(next(iter(zs.values()))).load())
    if as_json:
        typer.echo(json.dumps(_plain(found), indent=2, allow_nan=False))
    else:
        _print(found)
    if plot is not None:
        from zfleet_cli.heat_map import draw_interference

        try:
            plot.write_bytes(draw_interference(found))
        except OSError as error:
            raise SpecError(f"--plot {plot} cannot be written: {error.strerror}", "name a file that can be") from error
        typer.echo(f"picture: {plot}", err=True)


@dataclass(frozen=True)
class ExpertRow:
    """An expert in the table; ``change`` is ||W' - W|| / ||W||."""

    expert: str
    change: str


@dataclass(frozen=True)
class PairRow:
    """A pair of experts in the table."""

    first: str
    second: str
    angle: str
    cosine: str
    overlap: str


@dataclass(frozen=True)
class MatrixRow:
    """A matrix in the table of two experts."""

    matrix: str
    angle: str
    cosine: str
    overlap: str


def _print(found: Interference) -> None:
    sizes = found.size.tolist()
    print_rows(
        [ExpertRow(expert, f"{size:.1%}") for expert, size in zip(found.experts, sizes, strict=True)],
        "size of the change, of the weights' norm",
    )
    print_rows(
        [PairRow(found.experts[a], found.experts[b], *_cells(found.overall, a, b)) for a, b in _pairs(found)],
        "pairs of changes, all matrices",
    )
    if len(found.experts) == 2:
        print_rows([MatrixRow(name, *_cells(one, 0, 1)) for name, one in found.matrices.items()], "matrix by matrix")
    for place, expert in enumerate(found.experts):
        if math.isnan(float(found.overall.cosine[place, place])):
            typer.echo(f"{expert} is z = 1, the base: a change of nothing has no angle")


def _pairs(found: Interference) -> Iterator[tuple[int, int]]:
    return combinations(range(len(found.experts)), 2)


def _cells(similarity: Similarity, a: int, b: int) -> tuple[str, str, str]:
    values = _values(similarity, a, b)
    if values["cosine"] is None:
        return _UNDEFINED, _UNDEFINED, _UNDEFINED
    return f"{values['angle']:.0f}°", f"{values['cosine']:+.3f}", f"{values['overlap']:.3f}"


def _plain(found: Interference) -> dict[str, Any]:
    """Return everything as plain data; what is undefined is null."""
    pairs = [
        {
            "first": found.experts[a],
            "second": found.experts[b],
            **_values(found.overall, a, b),
            "matrices": {name: _values(one, a, b) for name, one in found.matrices.items()},
        }
        for a, b in _pairs(found)
    ]
    return {"experts": dict(zip(found.experts, found.size.tolist(), strict=True)), "pairs": pairs}


def _values(similarity: Similarity, a: int, b: int) -> dict[str, float | None]:
    values = {name: float(getattr(similarity, name)[a, b]) for name in ("angle", "cosine", "overlap")}
    return {name: None if math.isnan(value) else value for name, value in values.items()}

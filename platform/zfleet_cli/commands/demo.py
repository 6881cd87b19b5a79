"""``zfleet demo``: the whole loop on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zfleet.errors import SpecError


def demo(
    base: Annotated[
        str,
        typer.Option(
            help="`lab`: a small base that is built here; else the name, folder or hub id of an instruction model."
        ),
    ] = "lab",
    quick: Annotated[
        bool, typer.Option("--quick", help="Pretrained base: small budgets, to see all parts in a quarter of an hour.")
    ] = False,
    arc: Annotated[
        Path | None,
        typer.Option(help="Pretrained base: the folder of ARC's files, for experts of it, too.", show_default=False),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Lab base: keep the service running until Ctrl-C.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the report; by default runs/demo or runs/demo-BASE.", show_default=False),
    ] = None,
    engine: Annotated[
        Literal["torch", "vllm"], typer.Option(help="Lab base: the engine of training, search, evaluation and serving.")
    ] = "torch",
) -> None:
    """Train experts, mix and dispatch them, and write a report of gains and failures."""
    if base == "lab":
        if quick or arc is not None:
            raise SpecError("--quick and --arc are for a pretrained base, --base is `lab`", "give --base, or omit them")
        from zfleet_cli.demo.lab.run import run_demo

        run_demo(out or Path("runs/demo"), keep, engine)
        return
    if keep or engine != "torch":
        raise SpecError(
            f"--keep and --engine are for the lab base, --base is {base!r}: LoRA, which it is compared with, needs "
            "the engine `torch`",
            "omit them",
        )
    from zfleet.models.base import base_name
    from zfleet_cli.demo.real.plan import FULL, QUICK, with_arc
    from zfleet_cli.demo.real.run import run_real_demo

    plan = QUICK if quick else FULL
    folder = out or Path(f"runs/demo-{base_name(base)}{'-quick' if quick else ''}")
    run_real_demo(base, folder, plan if arc is None else with_arc(plan, arc), quick)

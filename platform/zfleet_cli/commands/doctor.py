"""``zfleet doctor``: which engines run here and whether programs can be graded, and why not."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from zfleet_cli.options import AsJson
from zfleet_cli.output import print_rows


def doctor(
    base: Annotated[
        str | None,
        typer.Option(metavar="lab|NAME|FOLDER|FILE", help="Also say which engines run this base.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which engines this machine can run and why not the others; exits with 1 when it can run none."""
    from zfleet.doctor.base import read_base
    from zfleet.doctor.machine import look
    from zfleet.doctor.support import judge
    from zfleet.rewards.sandbox.sandbox import look_at_sandbox

    # Read the base first: its errors show at once.
    facts = None if base is None else read_base(base)
    with Console(stderr=True).status("looking at torch and vLLM"):
        machine = look()
    engines = judge(machine, facts)
    print_rows(engines, "engines", as_json)
    if not as_json:
        typer.echo(f"sandbox for programs: {look_at_sandbox()}")
    if not any(engine.runs == "yes" for engine in engines):
        raise typer.Exit(1)

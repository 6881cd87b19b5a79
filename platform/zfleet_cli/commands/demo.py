"""``zfleet demo``: the whole loop on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the service running until Ctrl-C.")] = False,
    out: Annotated[Path, typer.Option(help="The folder of the report.")] = Path("runs/demo"),
    engine: Annotated[
        Literal["torch", "vllm"], typer.Option(help="The engine for training, search, evaluation and serving.")
    ] = "torch",
) -> None:
    """Build a base, train experts, mix and serve them, and write a report of gains and failures."""
    from zfleet_cli.demo.lab.run import run_demo

    run_demo(out, keep, engine)

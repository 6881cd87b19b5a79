"""``zfleet demo``: the whole loop on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service up until Ctrl-C.")] = False,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("runs/demo"),
    engine: Annotated[
        Literal["torch", "vllm"], typer.Option(help="What generates in training, search, measuring and serving.")
    ] = "torch",
) -> None:
    """Build a base, train experts, mix and serve them, and write a report of what was gained and what was not."""
    from zfleet_cli.demo.run import run_demo

    run_demo(out, keep, engine)

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SpecFile = Annotated[Path, typer.Argument(help="A spec file; jobs/specs holds examples.", show_default=False)]
OptionalSpecFile = Annotated[
    Path | None, typer.Argument(help="A spec file; without one the defaults hold.", show_default=False)
]
ResumableSpecFile = Annotated[
    Path | None,
    typer.Argument(help="A spec file; jobs/specs holds examples. Not needed with --resume.", show_default=False),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Go on with a run of this name, as it was started; --set storage=FOLDER where it is not in runs/train.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Replace one value of the spec; may be repeated.", show_default=False),
]
Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster, HOST:PORT or `auto`; else one is started here.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and print the resolved spec, and run nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

"""The options that several commands share; CONTRIBUTING.md has the rules for options.

Each command repeats the options in its own signature, because typer reads them there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zfleet.paths import REGISTRY_FOLDER, TRAIN_FOLDER

Z_SUFFIX, BUNDLE_SUFFIX = ".safetensors", ".zip"
"""Of files with an expert or a bundle, which `export` writes and `import` reads."""

SpecFile = Annotated[Path, typer.Argument(help="A spec file; jobs/specs has examples.", show_default=False)]
OptionalSpecFile = Annotated[
    Path | None, typer.Argument(help="A spec file; by default all keys have their defaults.", show_default=False)
]
ResumableSpecFile = Annotated[
    Path | None,
    typer.Argument(help="A spec file; jobs/specs has examples. Not needed with --resume.", show_default=False),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Continue the run of this name with its spec; "
        f"--set storage=FOLDER if the run is not stored in {TRAIN_FOLDER}.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Replace one value of the spec; may be repeated.", show_default=False),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="A running Ray cluster, HOST:PORT or `auto`; by default Ray is started here.", show_default=False
    ),
]
DASHBOARD = "http://127.0.0.1:8265"
"""Where the dashboard of a Ray cluster on this machine listens, or one that `kubectl port-forward` brings here."""
Dashboard = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        # Ray's own variables, in the order in which Ray reads them.
        envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        help="The dashboard of the Ray cluster: http://HOST:8265.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="What `zfleet submit` printed.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and print the resolved spec, and run nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

Registry = Annotated[
    str | None,
    typer.Option(
        metavar="URI", help=f"MLflow tracking URI; by default sqlite in {REGISTRY_FOLDER}.", show_default=False
    ),
]
BaseSlug = Annotated[
    str | None, typer.Option("--base", metavar="SLUG", help="A base, such as lab-1a2b3c4d.", show_default=False)
]
Reference = Annotated[
    str,
    typer.Argument(help="math, math/3 or math@champion; qualified: lab-1a2b3c4d.math/3", show_default=False),
]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for the log.", show_default=False)]

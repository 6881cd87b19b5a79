"""Write the demo's report, pictures and a self-contained page, and print a summary of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.text import Text

from zfleet.files import write_atomic
from zfleet_cli.demo.findings import findings
from zfleet_cli.demo.plots import PICTURES
from zfleet_cli.tables import print_table


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write the PNG plots and ``report.html``, which needs no other file and no network."""
    pictures = {name: draw(report) for name, draw in PICTURES.items()}
    for name, data in pictures.items():
        write_atomic(out / f"{name}.png", data)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zfleet_cli.demo", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    worked, failed = findings(report)
    page = environment.get_template("report.html.jinja").render(
        report=report,
        worked=worked,
        failed=failed,
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
    )
    write_atomic(out / "report.html", page.encode())


def print_summary(console: Console, report: dict[str, Any], out: Path) -> None:
    """Print the skills as a table, then what worked and what did not."""
    controls = {f"control: {name}": row | {"expert": row["accuracy"]} for name, row in report["controls"].items()}
    rows = [
        [
            name,
            f"{row['base']:.3f}",
            f"{row['clear_verb']:.3f}",
            f"{row['expert']:.3f}",
            "{:.3f}-{:.3f}".format(*row["ci95"]),
            f"{row['trained_parameters']:,}",
        ]
        for name, row in (report["skills"] | controls).items()
    ]
    names = ("skill", "base", "clear verb", "expert", "95 %", "numbers")
    title = f"held-out accuracy, engine {report['engine']}"
    print_table(console, title, names, [list(map(Text, row)) for row in rows])
    worked, failed = findings(report)
    for heading, sentences in (("What worked", worked), ("What did not, and what was not meant to", failed)):
        console.print(f"\n[bold]{heading}[/]")
        for sentence in sentences:
            console.print(f"  {sentence}", highlight=False, markup=False)
    console.print(f"\n{report['seconds']['total']:.0f} s in all. Report: {out / 'report.html'}", highlight=False)

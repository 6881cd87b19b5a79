"""Write the report of the lab's demo, and print a summary of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from zfleet_cli.demo.lab.findings import findings
from zfleet_cli.demo.lab.plots import PICTURES
from zfleet_cli.demo.page import print_findings, write_page
from zfleet_cli.tables import print_table


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write the PNG plots and ``report.html``, which needs no other file and no network."""
    write_page("lab/report.html.jinja", report, findings(report), PICTURES, out)


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
    print_findings(console, findings(report))
    console.print(f"\n{report['seconds']['total']:.0f} s in all. Report: {out / 'report.html'}", highlight=False)

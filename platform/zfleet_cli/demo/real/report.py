"""Write the report of the demo on a pretrained model, and print a summary of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from zfleet.pages.page import Report
from zfleet_cli.demo.page import print_findings, write_page
from zfleet_cli.demo.real.findings import findings
from zfleet_cli.demo.real.plots import PICTURES
from zfleet_cli.tables import print_table


def write_report(report: Report, out: Path) -> None:
    """Write the PNG plots and ``report.html``, which needs no other file and no network."""
    write_page("real/report.html.jinja", report, findings(report), PICTURES, out)


def print_summary(console: Console, report: Report, out: Path) -> None:
    """Print the tasks as a table, then what worked and what did not."""
    rows = [
        [
            name.replace("_", " "),
            f"{row['base']['mean']:.3f}",
            f"{row['svf']['accuracy']['mean']:.3f}",
            f"{row['lora']['accuracy']['mean']:.3f}",
            "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row["svf"]["gain"]),
        ]
        for name, row in report["tasks"].items()
    ]
    names = ("task", "base", "SVF", "LoRA", "SVF - base, 95 %")
    print_table(console, "accuracy on held-out prompts", names, [list(map(Text, row)) for row in rows])
    print_findings(console, findings(report))
    console.print(f"\n{report['seconds']['total'] / 60:.1f} min. Report: {out / 'report.html'}", highlight=False)

"""Write a demo's report, and print its findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from zfleet.files import write_atomic
from zfleet.pages.page import Findings, Report, page_files


def write_page(
    template: str,
    report: Report,
    findings: Findings,
    pictures: Mapping[str, Callable[[Report], bytes]],
    out: Path,
) -> None:
    """Write the pictures as PNG, and ``report.html``, which needs no other file and no network.

    Args:
        template: The page's template, from this folder.
        report, findings, pictures: As for ``page_files``.
        out: The folder.
    """
    for name, data in page_files("zfleet_cli.demo", template, report, findings, pictures).items():
        write_atomic(out / name, data)


def print_findings(console: Console, findings: Findings) -> None:
    """Print what worked and what did not."""
    worked, failed = findings
    for heading, sentences in (("What worked", worked), ("What did not, and what was not meant to", failed)):
        console.print(f"\n[bold]{heading}[/]")
        for sentence in sentences:
            console.print(f"  {sentence}", highlight=False, markup=False)

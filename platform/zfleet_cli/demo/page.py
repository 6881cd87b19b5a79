"""Write a demo's report as a self-contained page with its pictures, and print its findings."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console

from zfleet.files import write_atomic

Report = dict[str, Any]
Findings = tuple[list[str], list[str]]
"""Sentences about what worked, and about what did not."""


def write_page(
    template: str,
    report: Report,
    findings: Findings,
    pictures: Mapping[str, Callable[[Report], bytes]],
    out: Path,
) -> None:
    """Write the pictures as PNG, and ``report.html``, which needs no other file and no network.

    Args:
        template: The page's template, from this folder; it extends ``page.html.jinja``.
        report: What the template and the pictures show.
        findings: What the page says first.
        pictures: {file name: function that draws the picture}.
        out: The folder.
    """
    drawn = {name: draw(report) for name, draw in pictures.items()}
    for name, data in drawn.items():
        write_atomic(out / f"{name}.png", data)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zfleet_cli.demo", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    worked, failed = findings
    page = environment.get_template(template).render(
        report=report,
        worked=worked,
        failed=failed,
        pictures={name: base64.b64encode(data).decode() for name, data in drawn.items()},
    )
    write_atomic(out / "report.html", page.encode())


def print_findings(console: Console, findings: Findings) -> None:
    """Print what worked and what did not."""
    worked, failed = findings
    for heading, sentences in (("What worked", worked), ("What did not, and what was not meant to", failed)):
        console.print(f"\n[bold]{heading}[/]")
        for sentence in sentences:
            console.print(f"  {sentence}", highlight=False, markup=False)

"""Writes the pictures and the self-contained page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from zfleet.files import write_atomic
from zfleet_cli.demo.findings import findings
from zfleet_cli.demo.plots import PICTURES


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

"""Render a report as a self-contained page with its pictures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import jinja2

Report = dict[str, Any]
Findings = tuple[list[str], list[str]]
"""Sentences about what worked, and about what did not."""


def page_files(
    package: str,
    template: str,
    report: Report,
    findings: Findings,
    pictures: Mapping[str, Callable[[Report], bytes]],
) -> dict[str, bytes]:
    """Draw the pictures as PNG, and render ``report.html``, which needs no other file and no network.

    Args:
        package: The package whose folder has the template.
        template: The page's template; it extends ``page.html.jinja``.
        report: What the template and the pictures show.
        findings: What the page says first.
        pictures: {file name: function that draws the picture}.

    Returns:
        {file name: its bytes}.
    """
    drawn = {name: draw(report) for name, draw in pictures.items()}
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, ".") for name in (package, "zfleet.pages")]),
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
    return {f"{name}.png": data for name, data in drawn.items()} | {"report.html": page.encode()}

"""Render the report of an evaluation: the page, and each picture that the run has data for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from zfleet.evaluate.about import About
from zfleet.evaluate.cells import Cell
from zfleet.evaluate.matrix import Matrix
from zfleet.evaluate.report import matrix_pictures, search_pictures
from zfleet.evaluate.report.contents import contents
from zfleet.evaluate.report.findings import findings
from zfleet.evaluate.traces import SearchTrace
from zfleet.pages.page import Report, page_files

Picture = Callable[[Report], bytes]

_PICTURES: Mapping[str, tuple[Picture, Callable[[Report], object]]] = {
    "gains": (matrix_pictures.gains, lambda report: len(report["ways"]) > 1),
    "shots": (matrix_pictures.shots, lambda report: report["shots"]),
    "regret": (matrix_pictures.regret, lambda report: "oracle" in report["ways"]),
    "cost": (matrix_pictures.cost, lambda report: len(report["ways"]) > 1),
    "alphas": (search_pictures.alphas, lambda report: report["alphas"]),
    "layers": (search_pictures.layers, search_pictures.split),
    "parallel": (search_pictures.parallel, lambda report: report["candidates"]),
    "importance": (search_pictures.importance, lambda report: report["importance"]),
    "convergence": (search_pictures.convergence, lambda report: report["convergence"]),
    "reliability": (matrix_pictures.reliability, lambda report: report["reliability"]),
}
"""{file name: function that draws the picture, and one that says whether there is anything to draw}."""


def report_files(
    about: About, matrix: Matrix, cells: Sequence[Cell], traces: Sequence[SearchTrace]
) -> dict[str, bytes]:
    """Render ``report.html``, which needs no other file and no network, and its pictures as PNG.

    Returns:
        {file name: its bytes}.
    """
    report = contents(about, matrix, cells, traces)
    pictures = {name: draw for name, (draw, has_data) in _PICTURES.items() if has_data(report)}
    return page_files("zfleet.evaluate.report", "report.html.jinja", report, findings(report), pictures)

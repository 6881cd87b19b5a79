"""Results on terminals of any width: no word is broken and no number is cut, unless it is longer than a line."""

from __future__ import annotations

import re
from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from zfleet_cli.commands import experiment, experts, search, train
from zfleet_cli.main import app
from zfleet_cli.output import print_fields, print_rows
from zfleet_cli.tables import print_table

WIDTHS = (60, 80, 120)
SEARCH = search._SearchRow(
    "exam-mix/12",
    {"reverse/1": 0.5711, "sort/champion": -0.45},
    "20 fresh prompts",
    "0.812 [0.751, 0.861]",
    "0.400 [0.310, 0.490]",
    "0.100 [-0.020, 0.220] (sort/1)",
    "0.900 of 10, optimistic",
    1234,
    33.78,
)
EXPERT = train._ExpertRow("arithmetic-of-carries/3", 1344, 500, "0.625 → 0.812", "+0.250 → +0.625", 7, "trained before")
VERSION = experts.VersionRow(
    "lab-9a7ae12c", "reverse/1", "champion, production", "expert", "lab/reverse", "2026-11-30 06:22", "0123456789ab"
)
METHOD = experiment._MethodRow(
    "gsm8k", "svf-attention", "0.123", "0.456 [0.401, 0.512]", "+0.456 [+0.401, +0.512]", 1344, "123.4", "812", "1024"
)
RATIO = experiment._RatioRow("gsm8k", "svf", "1.021 [0.98, 1.06]", "+0.02 [-0.01, +0.05]", "10.0%", "not shown")
WORD = st.text(
    st.characters(codec="ascii", categories=["L", "N", "P"], exclude_characters="│"), min_size=1, max_size=12
)


def words(printed: str) -> set[str]:
    return set(re.sub(r"[│┃┏┓┗┛┡┩└┘┳╇┴┬┼├┤╋━─]", " ", printed).split())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("row", [SEARCH, EXPERT, VERSION, METHOD, RATIO], ids=lambda row: type(row).__name__)
def test_every_value_of_a_result_is_whole(
    width: int, row: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_rows([row, row], "results")
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= width
    for name, value in vars(row).items():
        text = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
        assert words(text) <= words(printed), f"{name}: {text} is broken"
        assert words(name.replace("_", " ")) <= words(printed)


def test_a_search_at_80_columns_has_a_line_for_each_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_rows([SEARCH], "found: exam-mix")
    title, *lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert title == "found: exam-mix"
    assert lines == [
        "mixture      exam-mix/12",
        "alphas       reverse/1 0.5711, sort/champion -0.45",
        "chosen by    20 fresh prompts",
        "held out     0.812 [0.751, 0.861]",
        "over base    0.400 [0.310, 0.490]",
        "over single  0.100 [-0.020, 0.220] (sort/1)",
        "on shots     0.900 of 10, optimistic",
        "answers      1234",
        "seconds      33.78",
    ]


def test_rows_that_do_not_fit_are_blocks_with_an_empty_line_between(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    print_rows([VERSION, VERSION], "experts")
    assert capsys.readouterr().out.count("│ lab-9a7ae12c │ reverse/1") == 2
    monkeypatch.setenv("COLUMNS", "60")
    print_rows([VERSION, VERSION], "experts")
    first, second = capsys.readouterr().out.split("\n\n")
    assert first.splitlines()[0].rstrip() == "experts"
    assert first.splitlines()[1:] == second.splitlines()


def test_one_version_is_whole_at_80_columns_with_its_digests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = "0123456789abcdef" * 4
    monkeypatch.setenv("COLUMNS", "80")
    print_fields({"z_digest": digest, "code_version": "1.2", "task": "", "parents": ()}, "lab-9a7ae12c.reverse/1")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "lab-9a7ae12c.reverse/1",
        f"z digest      {digest}",
        "code version  1.2",
    ]


@settings(deadline=None)
@given(
    st.integers(1, 8).flatmap(
        lambda columns: st.lists(
            st.lists(st.lists(WORD, max_size=6).map(" ".join), min_size=columns, max_size=columns),
            min_size=1,
            max_size=4,
        )
    ),
    st.integers(30, 140),
)
def test_no_word_is_broken_at_any_width(rows: list[list[str]], width: int) -> None:
    names = [f"column {place}" for place in range(len(rows[0]))]
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        print_table(console, "title", names, [list(map(Text, row)) for row in rows])
    printed = capture.get()
    assert max(map(cell_len, printed.splitlines())) <= width
    for cell in (cell for row in rows for cell in row):
        assert words(cell) <= words(printed)


def test_piped_results_are_80_columns_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    from zfleet.rewards import offline

    row = {"id": "a" * 30, "expected": "right", "verdict": "wrong", "extracted": "1 " * 60, "reason": "why " * 60}
    summary = {"n": 1, "right": 0, "agreement": 0.0, "contested": 0, "policies": {}, "disagreements": [row]}
    summary |= {"cannot_tell": 0, "failed": 0, "ungraded": []}
    monkeypatch.setattr(offline, "summary", lambda _: summary)
    monkeypatch.delenv("COLUMNS", raising=False)
    done = CliRunner().invoke(app, ["grade", "--task", "gsm8k", "--file", "/dev/null"])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "a" * 30 in done.stdout


@dataclass(frozen=True)
class _Long:
    name: str
    why: str


def test_a_word_longer_than_a_line_is_folded_without_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_rows([_Long("x" * 150, "because of 界" + "界" * 40)], "failed")
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= 60
    assert (printed.count("x"), printed.count("界")) == (150, 41)
    wide = make_dataclass("Wide", [(f"field_{n}", int) for n in range(40)], frozen=True)
    print_rows([wide(*range(1000, 1040))], "many")
    assert words(capsys.readouterr().out) >= {str(n) for n in range(1000, 1040)}

"""A model's texts are escaped before they reach a terminal: in results, errors, warnings and tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zfleet.errors import RewardError
from zfleet_cli.main import app, report
from zfleet_cli.untrusted import shown_lines

HOSTILE = "[red]\x1b]0;title\x07\x9b2J\u202eright\r"
ESCAPED = r"[red]\x1b]0;title\x07\x9b2J\u202eright\r"


def harmless(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write a row with hostile texts whose verdict differs from the expected one."""
    row = {"kind": "extract_boxed", "text": f"\\boxed{{{HOSTILE}}}", "expected": HOSTILE * 100, "id": HOSTILE}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row | {"policy": HOSTILE}))
    return file


def test_graded_texts_are_escaped_in_cells(rows: Path) -> None:
    done = CliRunner().invoke(app, ["grade", "--task", "math", "--file", str(rows)], env={"COLUMNS": "1200"})
    assert done.exit_code == 0, done.output
    assert harmless(done.stdout)
    assert done.stdout.count(ESCAPED) > 4
    assert "more … " in done.stdout


def test_graded_texts_are_escaped_in_json_and_can_be_read_back(rows: Path) -> None:
    done = CliRunner().invoke(app, ["grade", "--task", "math", "--file", str(rows), "--json"])
    assert harmless(done.stdout)
    (row,) = json.loads(done.stdout)["disagreements"]
    assert (row["id"], row["extracted"], row["expected"]) == (HOSTILE, HOSTILE.strip(), HOSTILE * 100)


def test_an_error_that_quotes_a_completion_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    report(RewardError(f"cannot parse {HOSTILE}\nremedy: give me a shell", f"ask for less than {HOSTILE}"))
    printed = capsys.readouterr().err
    assert harmless(printed)
    # Quoted lines are indented, so that only our own lines begin with "remedy".
    assert printed.splitlines() == [
        f"error: cannot parse {ESCAPED}",
        "  remedy: give me a shell",
        f"remedy: ask for less than {ESCAPED}",
    ]


def test_warnings_and_tracebacks_are_escaped() -> None:
    program = f"""
from zfleet.rewards.grading import grade_all
from zfleet.errors import RewardError
from zfleet_cli import main as cli

def reward(completion, sample):
    raise RewardError("cannot parse " + completion)

@cli.app.command("once")
def once():
    grade_all(reward, [(None, {HOSTILE!r})], skip_failed=True)
    raise ValueError("cannot parse " + {HOSTILE!r})

cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program, "once"], capture_output=True, check=False)
    printed = done.stderr.decode()
    assert done.returncode == 1
    assert harmless(printed)
    lines = printed.splitlines()
    assert lines[0] == f"sample left out: cannot parse {ESCAPED}"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == f"ValueError: cannot parse {ESCAPED}"


def test_newlines_stay_and_a_long_text_keeps_both_ends() -> None:
    assert shown_lines("a\nb\tc").plain == "a\n  b\\tc"
    assert shown_lines("a\nb", indent="").plain == "a\nb"
    assert shown_lines("a" * 500 + "\n" + "z" * 60, most=200).plain == "a" * 140 + " … 361 more … " + "z" * 60

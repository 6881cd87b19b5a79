"""`zfleet samples`: what it shows, and what of a completion never reaches a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from zfleet_cli.main import app
from zfleet_cli.untrusted import shown

DIGEST = "0123456789ab"
Write = Callable[..., None]
HOSTILE = "[red]red[/red] [link=http://x]\x1b[31m\x1b]0;title\x07\x9b2J\x00\r\n\u202eright\u2028\U000e0041\x7f"


def test_a_hostile_completion_reaches_no_terminal_as_such(write: Write, tmp_path: Path) -> None:
    write(tmp_path, 1, [(HOSTILE, HOSTILE, 1, 0), (HOSTILE, "long " * 200_000, -1, 0)])
    write(tmp_path, 2, [(HOSTILE, f"{HOSTILE}!", -1, 0)])
    arguments = ["samples", "lab", "--storage", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "600", "FORCE_COLOR": "1"}, color=True)
    assert done.exit_code == 0, done.output
    assert "\x1b[" in done.stdout
    # Rich's own styles are all the escape sequences there are.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert all(character.isprintable() or character == "\n" for character in plain)
    assert (
        "[red]red[/red] [link=http://x]" + r"\x1b[31m\x1b]0;title\x07\x9b2J\x00\r\n\u202eright\u2028\U000e0041\x7f"
        in plain
    )
    assert "999,800 more" in plain
    assert len(plain) < 30_000
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert all(character.isprintable() or character == "\n" for character in done.stdout)
    found = json.loads(done.stdout)
    assert {one["completion"] for one in found["best"]} == {HOSTILE, f"{HOSTILE}!", "long " * 200_000}


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    assert shown("ab" * 100).plain == "ab" * 100
    assert shown("a" * 500 + "z" * 500).plain == "a" * 140 + " … 800 more … " + "z" * 60
    assert "\x1b" not in shown("\x1b" * 10**6).plain


def test_the_command_shows_three_tables_or_json(write: Write, tmp_path: Path) -> None:
    for step, reward in ((1, -1), (2, 1)):
        write(tmp_path, step, [("ask", f"answer {step}", reward, 0)])
    write(tmp_path, 1, [("ask", "recited", 1, 1)], digest="ba9876543210")
    arguments = ["samples", "lab", "--storage", str(tmp_path)]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"}).stdout
    assert f"lab, sort ({DIGEST}): 2 steps, 1 to 2; 2 samples; mean reward +0.000" in shown
    assert "lab, sort (ba9876543210): step 1; 1 samples; every reward is +1, so that there is no best" in shown
    titles = [shown.index(f"\n{title} ") for title in ("best", "worst", "most changed")]
    assert titles == sorted(titles)
    assert re.search(r"-1 → \+1 +│ step 1, -1: answer 1 +│ step 2, \+1: answer 2", shown)
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json", "--worst", "0"]).stdout)
    assert [one["completion"] for one in found["best"]] == ["answer 2", "answer 1"]
    assert found["worst"] == []
    (changed,) = found["changed"]
    assert (changed["prompt"], changed["early_reward"], changed["late"]["completion"]) == ("ask", -1, "answer 2")
    unchanged = CliRunner().invoke(app, [*arguments, "--step", "2"])
    assert "most changed: no prompt has another mean reward" in unchanged.stdout


def test_the_command_reports_what_it_cannot_show(write: Write, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["samples", "lab", "--storage", str(tmp_path)])
    assert done.exit_code == 1
    assert "error: no run 'lab'" in done.stderr
    assert "remedy: name the storage" in done.stderr

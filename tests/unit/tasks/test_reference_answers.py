"""Reference answers are checked before training: none may be missing, and none too long for the base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from zfleet.errors import TaskError
from zfleet.models.base import Base
from zfleet.rewards.text import Exact
from zfleet.rl.reference_answers import check_references
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet_cli.main import app

# The lab's tokenizer has a token for each letter.
TRAIN = (Sample("0", "abc", "cba"), Sample("1", "ab", "ba"))
TASK = Task("flip", TRAIN, (Sample("2", "a"),), PromptTemplate("{prompt}"), Exact(""), 4)


def test_prompt_answer_and_end_fit_together(tiny_base: Base) -> None:
    tokenizer = tiny_base.tokenizer
    needed = len(TASK.prompt(tokenizer, TRAIN[0])) + len("cba") + 1
    check_references(TASK, tokenizer, needed)
    with pytest.raises(TaskError) as caught:
        check_references(TASK, tokenizer, needed - 1)
    assert caught.value.message == (
        "1 of 2 training prompts of flip do not fit with their reference answers: the base takes "
        f"{needed - 1} tokens, the longest needs {needed}; the first is sample 0"
    )


def test_rows_without_an_answer_are_counted(tiny_base: Base) -> None:
    task = replace(TASK, train=(*TRAIN, Sample("3", "abc", " "), Sample("4", "abc")))
    with pytest.raises(TaskError, match=r"2 of 4 training prompts of flip have no reference answer.*sample 3"):
        check_references(task, tiny_base.tokenizer, 64)


@pytest.mark.parametrize("base", ["lab", "folder"])
def test_a_dry_run_checks_reference_answers(base: str, tiny_folder: Path, tmp_path: Path) -> None:
    """Missing answers are found even if the base does not exist yet."""
    rows = [{"prompt": left + right, "answer": "" if left == "a" else right} for left in "abcdef" for right in "uvwxyz"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = {"kind": "contains", "value": "a"}
    given = {
        "base": {"model": "lab" if base == "lab" else str(tiny_folder)},
        "tasks": {"letters": {"jsonl": str(tmp_path / "rows.jsonl"), "template": "{prompt}", "reward": reward}},
        "methods": {"svf": {}, "supervised": {"learner": {"objective": "supervised"}}},
        "against": "svf",
    }
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(given))
    done = CliRunner().invoke(app, ["compare", str(spec), "--dry-run"])
    assert done.exit_code == 1
    assert "have no reference answer" in done.stderr
    done = CliRunner().invoke(
        app, ["compare", str(spec), "--dry-run", "--set", "methods.supervised.learner.objective=reinforce"]
    )
    assert done.exit_code == 0, done.output

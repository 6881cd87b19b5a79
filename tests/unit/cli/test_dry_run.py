"""A dry run checks the base's chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer
from typer.testing import CliRunner

from zfleet_cli.main import app

WORDS = "Conversation roles must begin with a system turn"


@pytest.fixture
def spec(tiny_folder: Path, tmp_path: Path) -> Path:
    """Write a job on a base whose chat template needs a system turn, which tasks do not have."""
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    needs_system = "{% if messages[0].role != 'system' %}{{ raise_exception('" + WORDS + "') }}{% endif %}"
    tokenizer.chat_template = needs_system + tokenizer.chat_template
    tokenizer.save_pretrained(base)
    rows = [json.dumps({"prompt": f"flip {letter}", "answer": letter}) for letter in "abcdefgh"]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    task = {"jsonl": str(tmp_path / "rows.jsonl"), "test_fraction": 0.5}
    job = {"base": {"model": str(base)}, "experts": [{"name": "flip", "task": task}]}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def test_the_error_quotes_a_template_that_refuses_the_prompts(spec: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(spec), "--dry-run"])
    assert done.exit_code == 1
    assert f"refuses turns of user: {WORDS}" in done.output
    assert "Traceback" not in done.output

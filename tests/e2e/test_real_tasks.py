"""Public tasks on a real pretrained checkpoint, and the guide to tasks of one's own, as its reader would follow it.

With real processes: the guide's commands are what its reader types, and the public tasks go the whole way from files as
people publish them to samples as people read them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from zfleet.config.load import load_spec
from zfleet.config.specs import TrainSpec
from zfleet.models.lab.build import LabRecipe
from zfleet.testing.tiny_bases import save_tiny
from zfleet.testing.tiny_vision import save_tiny_vision
from zfleet_jobs.train.plan import TrainedExpert
from zfleet_jobs.train.run import run_train

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
ZFLEET = str(Path(sys.executable).with_name("zfleet"))
STEPS, SAMPLES = 2, 8


Train = Callable[[dict[str, Any]], list[TrainedExpert]]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None) -> Train:
    """Trains a spec that lies in the current folder, as the command does, on the tests' cluster."""
    monkeypatch.chdir(tmp_path)

    def give(spec: dict[str, Any]) -> list[TrainedExpert]:
        file = tmp_path / "spec.yaml"
        file.write_text(yaml.safe_dump(spec))
        return run_train(load_spec(file, TrainSpec))

    return give


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no public data in {SHARED}")
def test_public_tasks_train_on_a_pretrained_checkpoint(tmp_path: Path, train: Train) -> None:
    """It tells toy stories: accuracy near zero is the honest result. One worker trains all three."""
    few = {"template": "{prompt}", "max_tokens": 24}
    tasks: dict[str, dict[str, Any]] = {
        "math": {"dataset": "gsm8k", "data": str(SHARED / "gsm8k"), "prompt": "{question}\n####", **few},
        "code": {"dataset": "mbpp_sanitized", "data": str(SHARED / "mbpp"), "prompt": "{problem}\n", **few},
        "reasoning": {"dataset": "arc_easy", "data": str(SHARED / "arc"), **few},
    }
    spec = {
        "kind": "train",
        "base": {"model": str(SHARED / "stories260k")},
        "experts": [{"name": name, "task": task} for name, task in tasks.items()],
        "learner": {"steps": STEPS, "prompts_per_step": 4, "samples_per_prompt": 2},
        "eval_samples": 8,
        "cohort": len(tasks),
    }
    results = train(spec)
    assert [result.name for result in results] == list(tasks)
    for result in results:
        assert result.reference.endswith("/1")
        assert 0 <= result.accuracy_after <= 1
        assert result.n == 8
        (folder,) = (tmp_path / "runs/train/samples").glob(f"run=*/expert={result.name}/digest=*")
        table = pq.read_table(folder)
        assert table.num_rows == STEPS * SAMPLES
        assert set(table["step"].to_pylist()) == {1, 2}
        assert all(table["prompt"].to_pylist())
        assert all(table["reason"].to_pylist())
        assert set(table["reward"].to_pylist()) <= {-1.0, 1.0}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no public data in {SHARED}")
def test_a_vision_language_task_trains(tmp_path: Path, train: Train) -> None:
    """Authors' questions, each asked of one of a few photographs: a random model's answers are the honest result."""
    photographs = sorted((SHARED / "images").iterdir())
    rows = json.loads((SHARED / "okvqa" / "train_first300.json").read_text())
    for place, row in enumerate(rows):
        row["img_id"] = photographs[place % len(photographs)].stem
    data = tmp_path / "okvqa"
    data.mkdir()
    (data / "train.json").write_text(json.dumps(rows))
    for photograph in photographs:
        (data / photograph.name).write_bytes(photograph.read_bytes())
    save_tiny_vision("llava", save_tiny("llama", tmp_path / "tower"), tmp_path / "eyes")
    spec = {
        "kind": "train",
        "base": {"model": str(tmp_path / "eyes")},
        "experts": [{"name": "seeing", "task": {"dataset": "okvqa", "data": str(data), "max_tokens": 4}}],
        "learner": {"steps": STEPS, "prompts_per_step": 4, "samples_per_prompt": 2},
        "num_workers": 2,
        "eval_samples": 8,
    }
    (result,) = train(spec)
    assert (result.name, result.n) == ("seeing", 8)
    assert result.reference.endswith("/1")
    (folder,) = (tmp_path / "runs/train/samples").glob("run=*/expert=seeing/digest=*")
    table = pq.read_table(folder)
    assert table.num_rows == STEPS * SAMPLES
    assert all("best is" in reason for reason in table["reason"].to_pylist())
    assert all(Path(image).parent == data for images in table["images"].to_pylist() for image in images)


def test_the_guide_to_a_task_of_ones_own_works_as_written(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a random base in the place of the lab's, which takes a minute to build and is tested in tests/unit/models."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_folder, tmp_path / "cache" / "lab" / LabRecipe().digest)
    guide = (ROOT / "docs" / "tasks.md").read_text()
    files = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```", guide, re.DOTALL | re.MULTILINE))
    assert set(files) == {"prompts.jsonl", "letters.py", "flip.yaml"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    section = guide[guide.index("## Your own task") : guide.index("## Public datasets")]
    (script,) = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    commands = [line.split("#")[0].split() for line in script.splitlines()]
    assert [command[:2] for command in commands] == [["zfleet", "train"], ["zfleet", "train"], ["zfleet", "experts"]]
    shown = []
    for command in commands:
        done = subprocess.run([ZFLEET, *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout)
    assert "letters:in_place" in shown[0]
    assert "flip" in shown[1]
    (folder,) = (tmp_path / "runs/train/samples").glob("run=flip/expert=flip/digest=*")
    parts = [json.loads(text) for text in pq.read_table(folder)["parts"].to_pylist()]
    assert all(set(each) == {"letters", "whole"} for each in parts)

"""Samples that stay in their file are the same as samples in memory."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path

import pytest

from zfleet.config.task_specs import TaskSpec
from zfleet.errors import TaskError
from zfleet.models.lab.tokenizer import build_tokenizer
from zfleet.rl.rollout import draw_prompts
from zfleet.tasks import jsonl
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import data_digest, fit_prompts
from zfleet.tasks.indexed import IndexedSamples
from zfleet.tasks.task import Task


def _file(path: Path, rows: int) -> Path:
    lines = [
        json.dumps({"prompt": f"flip {number % (rows - 3)}", "answer": "a", "n": number // 2}) for number in range(rows)
    ]
    path.write_text("\n".join([*lines, lines[0], lines[0]]))
    return path


def _task(path: Path) -> Task:
    return build_task(TaskSpec(jsonl=str(path), template="{prompt}", max_tokens=4))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every file as large."""
    monkeypatch.setattr(jsonl, "_IN_MEMORY", -1)


def test_the_same_samples_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path / "rows.jsonl", 200)
    in_memory = _task(path)
    monkeypatch.setattr(jsonl, "_IN_MEMORY", -1)
    indexed = pickle.loads(pickle.dumps(_task(path)))  # noqa: S301  # as jobs send tasks to their own workers
    assert isinstance(in_memory.train, tuple)
    assert isinstance(indexed.train, IndexedSamples)
    for expected, samples in ((in_memory.train, indexed.train), (in_memory.test, indexed.test)):
        assert tuple(samples) == expected
        assert [samples[place] for place in range(-3, 3)] == [expected[place] for place in range(-3, 3)]
        assert tuple(samples[2:9:3]) == expected[2:9:3]
    assert data_digest(indexed) == data_digest(in_memory)
    assert len({sample.id for sample in (*indexed.train, *indexed.test)}) == 202
    assert draw_prompts(indexed.train, 3, 150, 64) == draw_prompts(in_memory.train, 3, 150, 64)


@pytest.mark.usefixtures("large")
def test_prompts_that_do_not_fit_are_left_out_of_an_indexed_file_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "a" * length, "answer": "a"}) for length in range(1, 60)))
    fit = fit_prompts(_task(path), build_tokenizer(), 30)
    assert isinstance(fit.task.train, IndexedSamples)
    assert 0 < len(fit.left_out) < fit.checked == 59
    assert len(fit.task.train) + len(fit.task.test) + len(fit.left_out) == 59
    assert max(len(sample.prompt) for sample in fit.task.train) <= 30


@pytest.mark.usefixtures("large")
def test_a_file_that_changed_or_is_gone_is_named(tmp_path: Path) -> None:
    path = _file(tmp_path / "rows.jsonl", 50)
    task = _task(path)
    path.write_text(path.read_text() + "\n{}")
    with pytest.raises(TaskError, match="changed since the job began"):
        task.train[0]
    path.unlink()
    with pytest.raises(TaskError, match="cannot be read here") as caught:
        task.train[0]
    assert "every machine" in caught.value.remedy


@pytest.mark.usefixtures("large")
def test_memory_grows_by_bytes_a_row(tmp_path: Path) -> None:
    rows = 20_000
    path = _file(tmp_path / "rows.jsonl", rows)
    tracemalloc.start()
    try:
        task = _task(path)
        allocated, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(task.train) + len(task.test) == rows + 2
    # Each row needs 16 bytes; sorting needs a few times as much.
    assert allocated < 40 * rows
    assert peak < 120 * rows

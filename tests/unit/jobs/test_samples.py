"""Samples of a run: written by its workers, and read back while they write, after a crash, and whatever they say."""

from __future__ import annotations

import random
import re
import runpy
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from zfleet.engine.blocking import SyncEngine
from zfleet.errors import SamplesError, SpecError, TrainingDiverged
from zfleet.models.svf_model import SvfModel
from zfleet.testing.solo import SPEC, solo, vowels_task
from zfleet_jobs.run_folder.samples import step_with_samples
from zfleet_jobs.samples import look as looking
from zfleet_jobs.samples.layout import Training
from zfleet_jobs.samples.look import Look, SampleQuery, look_at
from zfleet_jobs.samples.read import read_rows

DOCS = Path(__file__).parents[3] / "docs" / "training.md"
DIGEST = "0123456789ab"
REWARDS = (-1.0, 0.5, 1.0)
Made = tuple[str, str, float, float]
"""Prompt, completion, reward and advantage."""
Write = Callable[..., None]


def look(storage: Path | str, run: str = "lab", **wanted: Any) -> Look:
    return look_at(run, str(storage), SampleQuery(**wanted))


def texts(samples: Sequence[Any]) -> list[str]:
    return [sample["completion"] for sample in samples]


def only_file(storage: Path) -> Path:
    (path,) = storage.rglob("*.parquet")
    return path


def test_what_is_written_is_read_back_whole(write: Write, tmp_path: Path) -> None:
    write(tmp_path, 3, [("ask", "wörd\n", -1.0, -0.5), ("ask", "right", 1.0, 0.5)])
    found = look(tmp_path, best=1, worst=1)
    assert texts(found.best) == ["right"]
    (worst,) = found.worst
    keys = {"run": "lab", "expert": "sort", "digest": DIGEST, "step": 3}
    row = {"sample": "ask", "group": 0, "prompt": "ask", "completion": "wörd\n", "tokens": 2, "reward": -1.0}
    assert worst.items() >= (keys | row | {"reason": "graded -1", "parts": '{"a": -1.0}', "staleness": 2}).items()
    ((training, spread),) = found.trainings
    assert (training, spread.samples, spread.mean) == (Training("lab", "sort", DIGEST), 2, 0.0)


def test_samples_of_a_step_that_diverged_are_written_and_the_error_says_where(
    tiny_model: SvfModel, engine: SyncEngine, tmp_path: Path
) -> None:
    folder = str(tmp_path / "samples")
    steady = solo(tiny_model, engine, vowels_task(), SPEC)
    base = steady.z.digest
    (report,) = step_with_samples(steady.learner, {"vowels": folder})
    written = pq.read_table(f"{folder}/step=000001")
    assert written.num_rows == report.samples == 32
    assert set(written["z"].to_pylist()) == {base} == {report.began_at}
    assert report.reached == steady.z.digest != base

    wild = SPEC.model_copy(update={"parametrisation": "exp", "lr": 200.0})
    with pytest.raises(TrainingDiverged, match="step 1: ") as raised:
        step_with_samples(solo(tiny_model, engine, vowels_task(), wild).learner, {"vowels": folder + "-wild"})
    assert raised.value.remedy.endswith(f"the samples of that step are in {folder}-wild/step=000001")
    assert pq.read_table(f"{folder}-wild/step=000001").num_rows == 32


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_that_of_a_plain_sort(write: Write, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    plain: list[tuple[str, int, str, float, float, str]] = []
    for expert in ("add", "sort"):
        for step in range(1, 8):
            for rank in range(2):
                made: list[Made] = [
                    (f"p{draw.randrange(12)}", f"{expert} {step} {rank} {n}", draw.choice(REWARDS), draw.uniform(-2, 2))
                    for n in range(draw.randrange(5))
                ]
                write(tmp_path, step, made, expert, rank)
                plain += [(expert, step, prompt, reward, by, text) for prompt, text, reward, by in made]
    found = look(tmp_path, best=9, worst=9, changed=5)
    ranked = sorted(plain, key=lambda one: (-abs(one[4]), -one[1]))
    assert texts(found.best) == [one[5] for one in sorted(ranked, key=lambda one: -one[3])[:9]]
    assert texts(found.worst) == [one[5] for one in sorted(ranked, key=lambda one: one[3])[:9]]
    asked: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for expert, step, prompt, reward, *_ in plain:
        asked[expert, prompt].append((step, reward))
    expected = {}
    for key, answers in asked.items():
        steps = sorted({step for step, _ in answers})
        half = len(steps) // 2
        early = [reward for step, reward in answers if step in steps[:half]]
        late = [reward for step, reward in answers if step in steps[-half:]]
        if half and sum(early) / len(early) != sum(late) / len(late):
            expected[key] = (sum(early) / len(early), sum(late) / len(late))
    largest = sorted((abs(late - early) for early, late in expected.values()), reverse=True)[:5]
    assert [abs(change.late - change.early) for change, *_ in found.changed] == pytest.approx(largest)
    for change, early_one, late_one in found.changed:
        assert (change.early, change.late) == pytest.approx(expected[early_one["expert"], early_one["prompt"]])
        assert early_one["prompt"] == late_one["prompt"]
        assert early_one["step"] < late_one["step"]


def test_of_a_changed_prompt_the_nearest_to_its_means_are_shown(write: Write, tmp_path: Path) -> None:
    write(tmp_path, 1, [("p", "a", -1, 0), ("p", "b", -1, 0), ("p", "c", 1, 0), ("same", "", 1, 0), ("once", "", 9, 0)])
    write(tmp_path, 2, [("p", "d", 1, 0), ("same", "", 1, 0)])
    write(tmp_path, 3, [("p", "e", 1, 0), ("p", "f", 1, 0)])
    ((change, early, late),) = look(tmp_path).changed
    assert (change.early, change.late) == pytest.approx((-1 / 3, 1))
    assert (early["completion"], late["completion"]) == ("a", "e")


def test_steps_and_experts_narrow_the_choice(write: Write, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step, [("p", f"sort {step}", step, 0), ("q", "", 0, 0)])
    write(tmp_path, 7, [("p", "add 7", 9, 0), ("q", "", 0, 0)], "add")
    assert texts(look(tmp_path, best=2).best) == ["add 7", "sort 3"]
    assert texts(look(tmp_path, best=1, expert="sort").best) == ["sort 3"]
    assert texts(look(tmp_path, best=1, step=2).best) == ["sort 2"]
    # Of each training, whatever its step.
    assert [spread.steps for _, spread in look(tmp_path, last=2).trainings] == [1, 2]
    with pytest.raises(SpecError, match=r"--step is 9.*from 1 to 7"):
        look(tmp_path, step=9)
    with pytest.raises(SpecError, match="--step is 0"):
        look(tmp_path, step=0)
    with pytest.raises(SpecError, match="one of the two"):
        look(tmp_path, step=1, last=1)


def test_rewards_that_are_all_one_number_leave_nothing_to_choose(write: Write, tmp_path: Path) -> None:
    write(tmp_path, 1, [("p", "recited", 1, 1), ("q", "too", 1, 1)], "supervised")
    found = look(tmp_path)
    assert (found.best, found.worst, found.changed) == ([], [], [])
    write(tmp_path, 1, [("p", "no", -1, 0), ("q", "yes", 1, 0)])
    assert texts(look(tmp_path).best) == ["yes", "no"]


@pytest.mark.parametrize("uri", [False, True])
def test_a_run_is_named_in_several_ways(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = (tmp_path / "a b").as_uri() if uri else "./a b"
    folder = storage if uri else tmp_path / "a b"
    write(folder, 1, [("p", "one", 1, 0), ("p", "two", -1, 0)])
    write(folder, 1, [("p", "other", 2, 0)], "sort-it", digest="ba9876543210", run="lab-2")
    training = f"{storage}/samples/run=lab/expert=sort"
    for run in ("lab", f"{storage}/lab/", training, f"{training}/digest={DIGEST}"):
        assert texts(look(storage, run).best) == ["one", "two"]
    assert [spread.most for _, spread in look(storage, "lab-2").trainings] == [2]
    with pytest.raises(SpecError, match=r"is a storage.*lab, lab-2"):
        look("elsewhere", storage)


def test_what_is_not_there_is_said_with_what_is(write: Write, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no run in"):
        look(tmp_path)
    (tmp_path / "lab").mkdir()
    with pytest.raises(SamplesError, match=r"run 'lab' in .* has no samples yet"):
        look(tmp_path)
    write(tmp_path, 1, [("p", "", 1, 0)], run="lab-experts")
    write(tmp_path, 1, [("p", "", 1, 0)], run="zoo")
    with pytest.raises(SpecError, match="there: lab-experts, zoo;"):
        look(tmp_path, "lab-expert")
    with pytest.raises(SpecError, match=r"--expert 'sart'.*choose one of: sort"):
        look(tmp_path, "zoo", expert="sart")
    (tmp_path / "samples" / "run=new").mkdir()
    with pytest.raises(SamplesError, match="'new' has no samples in"):
        look(tmp_path, "new")
    write(tmp_path, 1, [], run="new")
    with pytest.raises(SamplesError, match="'new' has no graded sample"):
        look(tmp_path, "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(SamplesError, match="cannot be listed"):
        look(tmp_path / "file")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    # A bit of the completion's own bytes: neither of the footer nor of a column that is read first.
    data[data.index(b"thecompletion") + 3] ^= 1
    path.write_bytes(data)


def _other(path: Path) -> None:
    pq.write_table(pa.table({"reward": [1.0, 2.0]}), path)


def _not_a_text(path: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    broken = pa.array([b"\xff", b"a"]).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index("completion"), "completion", broken), path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _empty, _flip, _other, _not_a_text])
def test_a_damaged_file_is_named(write: Write, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write(tmp_path, 4, [("p", "thecompletion", 1, 0), ("q", "", -1, 0)])
    path = only_file(tmp_path)
    damage(path)
    with pytest.raises(SamplesError, match="is damaged") as caught:
        look(tmp_path)
    assert str(path) in caught.value.message
    assert "step 4" in caught.value.remedy


def test_a_step_that_runs_again_replaces_its_files(write: Write, tmp_path: Path) -> None:
    for text in ("lost", "again"):
        for rank in (0, 1):
            write(tmp_path, 2, [("p", f"{text} {rank}", rank, 0)], rank=rank)
    step = Path(Training("lab", "sort", DIGEST).folder_in(str(tmp_path))) / "step=000002"
    assert {path.name for path in step.iterdir()} == {"worker-0.parquet", "worker-1.parquet"}
    # What a killed worker leaves is in nobody's way.
    (step / ".0123").write_bytes(b"PAR1")
    assert texts(look(tmp_path).best) == ["again 1", "again 0"]
    assert ds.dataset(tmp_path / "samples", partitioning="hive").count_rows() == 2


def test_readers_see_whole_steps_while_workers_write(write: Write, tmp_path: Path) -> None:
    """Steps appear and are replaced under the readers: ours, and pyarrow's own."""
    steps, rows = 12, 20
    write(tmp_path, 1, [("p", "1", 1, 0)] * rows)
    over = threading.Event()

    def work(rank: int) -> None:
        for step in [*range(1, steps), *range(2, steps + 1)]:
            write(tmp_path, step, [(f"p{n}", f"{step}", (-1) ** n * step, 0) for n in range(rows)], rank=rank)
            if over.is_set():
                return

    writers = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for writer in writers:
        writer.start()
    try:
        while any(writer.is_alive() for writer in writers):
            found = look(tmp_path, best=3, changed=3)
            ((_, spread),) = found.trainings
            assert spread.samples % rows == 0
            assert all(abs(one["reward"]) == float(one["completion"]) for one in (*found.best, *found.worst))
            assert ds.dataset(tmp_path / "samples", partitioning="hive").count_rows() % rows == 0
    finally:
        over.set()
        for writer in writers:
            writer.join()
    ((_, spread),) = look(tmp_path).trainings
    assert (spread.samples, spread.steps) == (steps * rows * 2, steps)


@pytest.mark.parametrize("again", [[], [("other", "now", 1, 0)], [("p", "now", 1, 0), ("q", "", -1, 0)]])
def test_a_step_written_again_between_two_looks_is_looked_at_again(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: list[Made]
) -> None:
    write(tmp_path, 1, [("p", "old", 5, 0), ("q", "", -1, 0)])
    write(tmp_path, 2, [("p", "z", 0, 0), ("q", "", -1, 0)])
    first = [again]

    def meanwhile(*arguments: Any) -> Any:
        if first:
            write(tmp_path, 1, first.pop())
        return read_rows(*arguments)

    monkeypatch.setattr(looking, "read_rows", meanwhile)
    assert "old" not in texts(look(tmp_path).best)
    assert ("now" in texts(look(tmp_path).best)) == bool(again)


def test_the_documented_example_reads_every_run(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = tmp_path / "runs" / "train"
    for step in (1, 2, 3):
        write(storage, step, [("p", "", step, 0), ("p", "", -1, 0)], run="lab-experts")
    write(storage, 2, [("p", "", 7, 0)], run="2024")
    (storage / "lab-experts").mkdir()
    (example,) = re.findall(r"^```python\n(import pyarrow.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "example.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    frame = runpy.run_path("example.py")["lab"]
    assert len(frame) == 4
    assert frame.groupby(["expert", "step"]).reward.mean().to_dict() == {("sort", 2): 0.5, ("sort", 3): 1.0}
    table = pq.read_table(storage / "samples")
    assert set(table["run"].to_pylist()) == {"lab-experts", "2024"}
    assert set(table["step"].to_pylist()) == {1, 2, 3}


def test_what_was_not_graded_is_kept_with_its_reason_and_chosen_nowhere(write: Write, tmp_path: Path) -> None:
    nan = float("nan")
    write(tmp_path, 1, [("p", "good", 1.0, 0.5), ("p", "bad", -1.0, -0.5), ("q", "odd", None, nan)])
    write(tmp_path, 2, [("p", "better", 2.0, 0.5), ("q", "odd", None, nan)])
    write(tmp_path, 1, [("p", "odd", None, nan)], expert="add")
    found = look(tmp_path)
    ((training, spread),) = found.trainings
    assert (training.expert, spread.samples, spread.ungraded, spread.steps) == ("sort", 3, 2, 2)
    assert texts(found.best) == ["better", "good", "bad"]
    assert [early["sample"] for _, early, _ in found.changed] == ["p"]
    table = pq.read_table(tmp_path / "samples").to_pylist()
    odd = [row for row in table if row["completion"] == "odd"]
    assert [(row["reward"], row["advantage"], row["reason"]) for row in odd] == [(None, None, "none of its task's")] * 3


def test_files_of_others_are_passed_over(write: Write, tmp_path: Path) -> None:
    write(tmp_path, 1, [("p", "mine", 1, 0), ("p", "", 0, 0)])
    path = only_file(tmp_path)
    (path.parent / "notes.txt").write_text("")
    (path.parents[1] / "copy.parquet").write_bytes(path.read_bytes())
    assert texts(look(tmp_path, best=1).best) == ["mine"]

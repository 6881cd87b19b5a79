"""What a run may go on with: its own spec, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zfleet.errors import CheckpointError, JobError, SpecError
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.rl.checkpoint import Checkpoint, Selection
from zfleet_jobs.run_folder.checkpoints import CurvePoint, ExpertFolder, cohort_checkpoints, expert_folder
from zfleet_jobs.run_folder.lock import only_writer
from zfleet_jobs.run_folder.record import CHANGES, check_started, record, recorded_spec
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.testing.training import Place, contains, training_place
from zfleet_jobs.train import run as train_run
from zfleet_jobs.train.plan import make_plans
from zfleet_jobs.train.run import run_train

Start = Callable[..., None]


@pytest.fixture
def place(tiny_folder: Path, tmp_path: Path) -> Iterator[Place]:
    with training_place(tmp_path, tiny_folder, "") as place:
        yield place


@pytest.fixture
def bundle(place: Place) -> BaseBundle:
    return pack_base(place.spec({"one": contains("a")}).base)


@pytest.fixture
def start(place: Place, bundle: BaseBundle) -> Start:
    """Record a job as its run's."""

    def start(rewards: dict[str, dict[str, str]], **changes: Any) -> None:
        spec = place.spec(rewards, run="mine", **changes)
        record(Storage.at(spec.storage, spec.run), spec, make_plans(spec, bundle, here=True))

    return start


def test_a_changed_spec_is_refused_with_all_that_differs(start: Start, place: Place) -> None:
    start({"one": contains("a"), "two": contains("e")})
    learner = {"steps": 6, "prompts_per_step": 8, "lr": 0.1, "seed": 3}
    with pytest.raises(SpecError) as refused:
        start({"one": contains("a"), "two": contains("i")}, learner=learner, eval_samples=3)
    assert refused.value.message == (
        f"run 'mine' in {place.storage}/mine was started with another spec: "
        "eval [6, 0.0] -> [3, 0.0] (would change what its accuracy is measured on) of one, two; "
        "learner.lr 0.05 -> 0.1 (would change how it learns) of one, two; "
        "task.reward.value e -> i (would change what it is graded by) of two"
    )
    assert "--set run=NAME" in refused.value.remedy
    assert "zfleet train --resume mine" in refused.value.remedy
    start({"one": contains("a"), "two": contains("e")})


def test_changed_prompts_are_another_run(start: Start, place: Place) -> None:
    start({"one": contains("a")})
    with (place.root / "prompts.jsonl").open("a") as file:
        file.write('{"prompt": "flip zz"}\n')
    with pytest.raises(SpecError, match=r"data \w+\.\.\.\w+ -> \w+\.\.\.\w+ \(would change what it learns from\)"):
        start({"one": contains("a")})


def test_factors_of_another_base_are_another_run(start: Start, place: Place) -> None:
    start({"one": contains("a")})
    spec = place.spec({"one": contains("a")}, run="mine", base={"model": str(place.base), "targets": "mlp"})
    plans = make_plans(spec, pack_base(spec.base), here=True)
    with pytest.raises(SpecError, match=r"factors \w+\.\.\.\w+ -> .* \(would change its base"):
        record(Storage.at(spec.storage, "mine"), spec, plans)


def test_where_a_run_goes_may_change_and_is_said(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    start({"one": contains("a")})
    start({"one": contains("a")}, max_failures=5, checkpoint_every=3)
    assert (
        "run mine goes on, with changes in where and how it runs: checkpoint_every 1 -> 3; max_failures 2 -> 5"
        in caplog.text
    )


def test_experts_may_come_along_and_all_are_resumed(start: Start, place: Place) -> None:
    start({"one": contains("a")})
    start({"two": contains("e")}, learner={"steps": 2, "prompts_per_step": 4})
    with pytest.raises(SpecError, match=r"num_workers 1 -> 2 \(would change how numbers are rounded.* of three"):
        start({"three": contains("i")}, num_workers=2)
    resumed = recorded_spec("mine", [f"storage={place.storage}"])
    assert [(expert.name, resumed.learner_of(expert).steps) for expert in resumed.experts] == [("two", 2), ("one", 6)]
    assert resumed.storage == str(place.storage)


def test_a_resumed_spec_is_the_one_it_was_started_with(start: Start, place: Place) -> None:
    start({"one": contains("a")})
    before = place.spec({"one": contains("a")}, run="mine")
    assert recorded_spec("mine", [f"storage={place.storage}"]) == before
    changed = recorded_spec("mine", [f"storage={place.storage}", "max_failures=7"])
    assert changed == before.model_copy(update={"max_failures": 7})


def test_a_password_is_not_written_down(start: Start, place: Place) -> None:
    uri = "postgresql://me:hidden-word@db.example/mlflow"
    start({"one": contains("a")}, registry=uri)
    assert "hidden-word" not in (place.storage / "mine" / "run.json").read_text()
    where = f"storage={place.storage}"
    with pytest.raises(SpecError, match=r"postgresql://db.example/mlflow: user and password were not written down"):
        recorded_spec("mine", [where])
    assert recorded_spec("mine", [where, f"registry={uri}"]).registry == uri


def test_what_was_never_started_cannot_be_resumed(start: Start, place: Place) -> None:
    start({"one": contains("a")})
    for ask in (lambda: recorded_spec("yours", [f"storage={place.storage}"]), lambda: check_started("none", "mine")):
        with pytest.raises(SpecError, match="there is no such run"):
            ask()
    with pytest.raises(SpecError) as refused:
        recorded_spec("yours", [f"storage={place.storage}"])
    assert refused.value.remedy.startswith("runs there: mine;")


@pytest.mark.parametrize("text", ["{", "[]", '{"spec": {}}'])
def test_a_damaged_record_is_refused(start: Start, place: Place, text: str) -> None:
    (place.storage / "mine").mkdir(parents=True)
    (place.storage / "mine" / "run.json").write_text(text)
    with pytest.raises(JobError, match=r"run.json is damaged, or of another version of zfleet"):
        start({"one": contains("a")})


def test_a_checkpoint_of_another_base_is_refused_before_a_cluster_starts(
    place: Place, bundle: BaseBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setattr(train_run, "cluster", refuse)
    spec = place.spec({"one": contains("a")})
    (plan,) = make_plans(spec, bundle, here=True)
    folder = expert_folder(Storage.at(spec.storage, spec.run), plan)
    folder.write_checkpoint(a_checkpoint("f" * 64))
    with pytest.raises(CheckpointError, match=f"was made on factors {'f' * 12}, this job's base has") as refused:
        run_train(spec)
    assert "resume with the base it was made on" in refused.value.remedy


def a_checkpoint(factors: str, step: int = 3) -> Checkpoint:
    import torch

    p = torch.zeros(4, requires_grad=True)
    adam = torch.optim.Adam([p])
    return Checkpoint.capture(p, adam, [], Selection(), step=step, mean_reward=0.5, factors=factors)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = ExpertFolder(Storage.at(str(tmp_path), "run", "one"), str(tmp_path / "samples"))
    assert (folder.checkpoint(), folder.curve("one"), folder.result(), folder.run_id()) == (None, [], None, None)
    for step in (2, 1):
        folder.write_point(CurvePoint("one", step, {"reward": step / 3}))
    folder.write_checkpoint(a_checkpoint("f"))
    folder.write_run_id("r1")
    assert folder.score_before() is None
    folder.write_score_before({"accuracy_before": 1 / 3})
    assert folder.score_before() == {"accuracy_before": 1 / 3}
    assert folder.curve("one") == [CurvePoint("one", step, {"reward": step / 3}) for step in (1, 2)]
    checkpoint = folder.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.mean_reward, checkpoint.factors) == (3, 0.5, "f")
    assert folder.run_id() == "r1"


def _expert_folder(root: Path, *steps: int, name: str = "one") -> ExpertFolder:
    """A folder with a checkpoint and a curve point of each of these steps."""
    folder = ExpertFolder(Storage.at(str(root), "run", name), str(root / "samples"))
    for step in steps:
        folder.write_point(CurvePoint(name, step, {"samples": 1.0}))
        folder.write_checkpoint(a_checkpoint("f", step))
    return folder


def test_the_last_two_checkpoints_stay_and_a_damaged_one_says_what_is_before_it(tmp_path: Path) -> None:
    folder = _expert_folder(tmp_path, 1, 2, 4)
    assert folder.checkpoint_steps() == [2, 4]
    last = tmp_path / "run" / "one" / "states" / "000004.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"states/000004\.safetensors is truncated or damaged") as refused:
        folder.checkpoint()
    assert refused.value.remedy == "delete it: the run goes on from step 2"
    last.unlink()
    checkpoint = folder.checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 2
    # Going on from there, step 4 comes again.
    folder.write_checkpoint(a_checkpoint("f", 4))
    assert folder.checkpoint_steps() == [2, 4]
    only = _expert_folder(tmp_path, 1, name="two")
    (tmp_path / "run" / "two" / "states" / "000001.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as refused:
        only.checkpoint()
    assert refused.value.remedy == "delete it: the run begins again"


@pytest.mark.parametrize(
    ("written", "goes_on"),
    [
        ([(1, 2, 3), (1, 2, 3)], [3, 3]),
        ([(1, 2, 3), (1, 2)], [2, 2]),  # killed between the two
        ([(1,), (0,)], [0, 0]),  # the same, in the first step
        ([(10, 13), (10,)], [10, 10]),
        ([(4, 5), ()], [5, 0]),  # one that comes along later
        ([(4, 5), (8, 9)], [5, 9]),  # two that were not in one cohort
        ([(), ()], [0, 0]),
    ],
)
def test_a_cohort_goes_on_from_one_step(tmp_path: Path, written: list[tuple[int, ...]], goes_on: list[int]) -> None:
    cohort = []
    for number, steps in enumerate(written):
        cohort.append(_expert_folder(tmp_path, *(step for step in steps if step), name=str(number)))
        if 0 in steps:
            cohort[-1].write_point(CurvePoint(str(number), 1, {"samples": 1.0}))
    assert [0 if checkpoint is None else checkpoint.step for checkpoint in cohort_checkpoints(cohort)] == goes_on


def test_storage_under_a_uri_is_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    there, here = Storage.at(f"file://{tmp_path}/", "run"), Storage.at(str(tmp_path), "run")
    assert there.get("file") is None
    there.put("file", b"1")
    there.put("file", b"2")
    assert (there.get("file"), here.get("file"), there.names(), here.names()) == (b"2", b"2", ["file"], ["file"])
    folder = ExpertFolder(there, there.folder("samples").place)
    for step in (1, 2, 3):
        folder.write_checkpoint(a_checkpoint("f", step))
    checkpoint = folder.checkpoint()
    assert checkpoint is not None
    assert (checkpoint.step, folder.checkpoint_steps()) == (3, [2, 3])
    with only_writer(there, "run"), only_writer(there, "run"):
        pass
    assert "whether another command writes to run run is not checked" in caplog.text


def test_what_cannot_be_written_says_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file, not a folder")
    for place in (str(tmp_path), f"file://{tmp_path}"):
        with pytest.raises(JobError, match=r"/run cannot be written: ") as error:
            Storage.at(place, "run").put("file", b"1")
        assert "make room there" in error.value.remedy


HOLDER = """
import sys, time
from zfleet_jobs.run_folder.lock import only_writer
from zfleet_jobs.run_folder.storage import Storage
with only_writer(Storage(sys.argv[1]), "mine"):
    print("held", flush=True)
    time.sleep(300)
"""


def test_one_command_at_a_time_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path), "mine")
    with subprocess.Popen([sys.executable, "-c", HOLDER, storage.place], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(JobError, match=rf"'mine' in {storage.place} is being written by process {holder.pid} "):
                only_writer(storage, "mine").__enter__()
        finally:
            holder.kill()
    with only_writer(storage, "mine"):
        assert json.loads((tmp_path / "mine" / "lock").read_text())["pid"] != holder.pid


def test_what_the_controller_of_a_run_loads_is_no_model_library() -> None:
    check = "import sys, zfleet_jobs.train.progress.deaths; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_whatever_a_z_depends_on_is_said_in_words(place: Place, bundle: BaseBundle) -> None:
    (plan,) = make_plans(place.spec({"one": contains("a")}), bundle, here=True)
    assert plan.depends.keys() == CHANGES.keys() - {"start"}, "an expert that begins at the base has no start"

"""What is sent with a submitted job, what is left to the cluster, and what is refused before anything is sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.load import dump_spec, load_spec
from zfleet.config.search import SearchSpec
from zfleet.config.specs import BaseSpec, TrainSpec
from zfleet.errors import BaseModelError, RegistryError, SpecError, TaskError
from zfleet.models.base import base_slug
from zfleet.models.fingerprint import fingerprint
from zfleet.testing.seeing import noise
from zfleet_cluster.sent_code import CODE_VERSION, PACKAGES, code_environment, job_metadata
from zfleet_jobs.code_version import code_version
from zfleet_jobs.submit import files
from zfleet_jobs.submit.arrived import prepare_base
from zfleet_jobs.submit.names import BASE, SPEC_FILE
from zfleet_jobs.submit.package import prepare
from zfleet_jobs.submit.places import check_places

REWARDS = "rewards_of_submit_tests"
KEPT = {"storage": "/shared/runs", "registry": "http://mlflow:5000"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with prompts and a reward whose module imports another one; the current one."""
    monkeypatch.chdir(tmp_path)
    _rows(tmp_path / "data" / "prompts.jsonl")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "words.py").write_text("WORD = 'a'\n")
    (tmp_path / f"{REWARDS}.py").write_text(
        "from parts.words import WORD\n\ndef good(completion, sample):\n    return float(WORD in completion)\n"
    )
    (tmp_path / "unused.py").write_text("")
    (tmp_path / ".env").write_text("SECRET=1\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in (REWARDS, "parts")]:
        del sys.modules[name]


def _rows(path: Path, **fields: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"flip {letter}", "answer": letter} | fields for letter in "abcdefgh"]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def _train(task: dict[str, Any], **changes: Any) -> TrainSpec:
    task = ({"test_fraction": 0.5} if {"jsonl", "dataset"} & task.keys() else {}) | task
    return TrainSpec.model_validate({"experts": [{"name": "flip", "task": task}]} | KEPT | changes)


def _search(**changes: Any) -> SearchSpec:
    return SearchSpec.model_validate({"experts": ["a"], "name": "mix", "task": {"lab": "reverse"}} | KEPT | changes)


def _calibrate(**changes: Any) -> CalibrateSpec:
    labels = {"flip": {"expert": "flip", "task": {"jsonl": "data/prompts.jsonl", "test_fraction": 0.5}}}
    values = {"name": "router", "dispatcher": "nearest", "labels": labels, "registry": KEPT["registry"]}
    return CalibrateSpec.model_validate(values | changes)


def _evaluate(**changes: Any) -> EvaluateSpec:
    tasks = {"flip": {"jsonl": "data/prompts.jsonl", "test_fraction": 0.5}}
    return EvaluateSpec.model_validate({"name": "matrix", "experts": ["flip"], "tasks": tasks} | KEPT | changes)


PYTHON = {"kind": "python", "value": f"{REWARDS}:good"}


def test_rows_and_modules_that_the_spec_names_are_sent_and_nothing_else(project: Path) -> None:
    reward = {"kind": "sum", "parts": {"good": PYTHON, "whole": {"kind": "exact"}}}
    found = files.find_files(_train({"jsonl": "data/prompts.jsonl", "reward": reward}))
    names = ["data/prompts.jsonl", "parts/__init__.py", "parts/words.py", f"{REWARDS}.py"]
    assert found.sent == {name: project / name for name in names}
    assert found.notes == ()
    for task in ({"lab": "reverse"}, {"generated": "reviews"}):
        assert not files.find_files(_train(task)).sent, "modules are for rewards that need them"


def test_the_job_gets_the_resolved_spec_the_files_and_the_code(project: Path) -> None:
    spec = _train({"jsonl": "data/prompts.jsonl", "reward": PYTHON}, run="mine")
    submission = prepare(spec)
    assert submission.metadata == {"zfleet.kind": "train", "zfleet.run": "mine", CODE_VERSION: code_version()}
    assert submission.entrypoint == f"exec python -m zfleet_cli.on_cluster train {SPEC_FILE} --address auto"
    with submission.packed() as environment:
        folder = Path(environment["working_dir"])
        assert load_spec(folder / SPEC_FILE, TrainSpec) == spec
        assert (folder / "data" / "prompts.jsonl").read_bytes() == (project / "data" / "prompts.jsonl").read_bytes()
        sent = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        (metadata,) = sent - submission.files.keys() - {SPEC_FILE}
        assert metadata.startswith("zfleet-")
        assert metadata.endswith(".dist-info/METADATA")
        assert {Path(place).name for place in environment["py_modules"]} == set(PACKAGES)
        assert environment["env_vars"].keys() == {"RAY_JOB_STOP_WAIT_TIME_S"}
    assert not folder.exists()


def test_a_calibration_takes_the_prompts_of_its_labels_along(project: Path) -> None:
    submission = prepare(_calibrate())
    assert submission.files == {"data/prompts.jsonl": project / "data" / "prompts.jsonl"}
    assert submission.metadata["zfleet.run"] == "router"
    with pytest.raises(SpecError, match="registry is not set"):
        prepare(_calibrate(registry=None))


def test_an_evaluation_takes_its_tasks_along_and_keeps_its_results_where_all_nodes_find_them(project: Path) -> None:
    submission = prepare(_evaluate())
    assert submission.files == {"data/prompts.jsonl": project / "data" / "prompts.jsonl"}
    assert submission.metadata["zfleet.run"] == "matrix"
    for changes, message in (
        ({"registry": None}, "registry is not set"),
        ({"storage": "runs"}, "storage is 'runs'"),
        ({"lora": {"method": "lora"}}, "lora.experiment is 'runs/experiments'"),
    ):
        with pytest.raises(SpecError, match=message):
            prepare(_evaluate(**changes))


def test_images_travel_with_their_rows(project: Path) -> None:
    (project / "pictures").mkdir()
    (project / "pictures" / "a.png").write_bytes(noise(1))
    _rows(project / "data" / "seen.jsonl", image="../pictures/a.png")
    found = files.find_files(_train({"jsonl": "data/seen.jsonl", "image_field": "image"}))
    assert found.sent.keys() == {"data/seen.jsonl", "pictures/a.png"}


def test_images_elsewhere_are_refused_or_left_to_the_cluster(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    picture = tmp_path_factory.mktemp("elsewhere") / "a.png"
    picture.write_bytes(noise(1))
    _rows(project / "seen.jsonl", image=str(picture))
    found = files.find_files(_train({"jsonl": "seen.jsonl", "image_field": "image"}))
    assert found.sent.keys() == {"seen.jsonl"}
    (note,) = found.notes
    assert f"seen.jsonl has absolute paths of images, such as {picture}" in note
    _rows(project / "seen.jsonl", image=f"../{picture.parent.name}/a.png")
    with pytest.raises(SpecError, match=r"an image of seen.jsonl is .* leads out of the current folder"):
        files.find_files(_train({"jsonl": "seen.jsonl", "image_field": "image"}))


def test_of_a_dataset_only_its_own_files_are_sent(project: Path) -> None:
    row = json.dumps({"question": "How many?", "answer": "#### 4"})
    (project / "gsm8k").mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        (project / "gsm8k" / name).write_text(row.replace("many", name))
    (project / "gsm8k" / "notes.txt").write_text("private")
    found = files.find_files(_train({"dataset": "gsm8k", "data": "gsm8k"}))
    assert found.sent.keys() == {"gsm8k/train.jsonl", "gsm8k/test.jsonl"}


def test_absolute_paths_are_the_clusters(project: Path) -> None:
    here, there = str(project / "data" / "prompts.jsonl"), "/only/there/prompts.jsonl"
    for path in (here, there):
        found = files.find_files(_train({"jsonl": path}))
        assert not found.sent
        (note,) = found.notes
        assert note.startswith(f"experts.0.task.jsonl is {path}: what an absolute path names is not sent")
    # What is here is checked here.
    (project / "data" / "prompts.jsonl").write_text("{")
    with pytest.raises(TaskError):
        files.find_files(_train({"jsonl": here}))


def test_a_reward_that_is_installed_here_must_be_installed_there(project: Path) -> None:
    reward = {"kind": "python", "value": "statistics:mean"}
    found = files.find_files(_train({"jsonl": "data/prompts.jsonl", "reward": reward}))
    (note,) = found.notes
    assert note.startswith("experts.0.task.reward.value is in statistics, a module installed on this machine")


@pytest.mark.parametrize("path", ["../prompts.jsonl", "data/../data/prompts.jsonl", "~/prompts.jsonl"])
def test_paths_that_the_job_could_not_find_are_refused(path: str, project: Path) -> None:
    with pytest.raises(SpecError, match=r"experts.0.task.jsonl is .* leads out of the current folder") as refused:
        files.find_files(_train({"jsonl": path}))
    assert "absolute path that the cluster has" in refused.value.remedy


def test_too_many_bytes_are_refused_with_the_largest_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_MIB", 0)
    with pytest.raises(
        SpecError, match=r"0 MiB can be sent; the largest are data/prompts.jsonl \(0.0 MiB\)"
    ) as refused:
        files.find_files(_train({"jsonl": "data/prompts.jsonl"}))
    assert "absolute paths" in refused.value.remedy


def test_errors_of_the_spec_come_before_anything_is_sent(project: Path) -> None:
    with pytest.raises(TaskError, match=r"no.jsonl cannot be read"):
        prepare(_train({"jsonl": "no.jsonl"}))
    with pytest.raises(SpecError, match="no_such_module"):
        prepare(_train({"dataset": "gsm8k", "reward": {"kind": "python", "value": "no_such_module:f"}}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"storage": "runs/train"}, "storage is 'runs/train': in the job's own folder, results would be lost with it"),
        ({"storage": "s3://key:hunter2@bucket/runs"}, "storage is s3://bucket/runs with a password"),
        ({"registry": None}, "registry is not set"),
        ({"registry": "sqlite:///mlflow.db"}, "registry is 'sqlite:///mlflow.db': in the job's own folder"),
        ({"registry": "postgresql://ann:hunter2@db/mlflow"}, "registry is postgresql://db/mlflow with a password"),
        ({"registry": "https://hunter2@mlflow"}, "registry is https://mlflow with a password or token"),
        ({"base": {"model": "./no-such-folder"}}, "that is no known base (lab, "),
        ({"base": {"model": "model.gguf"}}, "that is no known base (lab, "),
        ({"base": {"model": "llama"}}, "that is no known base (lab, "),
        ({"base": {"model": "data"}}, "base.model is 'data', which is on this machine: a base is not sent with a job"),
    ],
    ids=str,
)
def test_places_that_the_cluster_cannot_have_are_refused(changes: dict[str, Any], message: str, project: Path) -> None:
    with pytest.raises(SpecError) as refused:
        check_places(_train({"lab": "reverse"}, **changes))
    assert message in refused.value.message
    assert "hunter2" not in str(refused.value)
    (key,) = changes
    assert key in refused.value.remedy


def test_all_refused_places_are_told_at_once() -> None:
    with pytest.raises(SpecError) as refused:
        check_places(_search(storage="runs/search", registry=None))
    assert "storage is 'runs/search'" in refused.value.message
    assert "registry is not set" in refused.value.message
    assert "--set storage=/shared/runs" in refused.value.remedy
    assert "--set registry=http://HOST:5000" in refused.value.remedy
    with pytest.raises(SpecError, match="storage is 's3://bucket/runs'"):
        check_places(_search(storage="s3://bucket/runs"))
    with pytest.raises(RegistryError, match="is a folder"):
        check_places(_search(registry="runs/registry"))


def test_places_that_the_cluster_may_have_pass() -> None:
    train = _train({"lab": "reverse"}, storage="s3://bucket/runs", registry="postgresql://ann@db/mlflow")
    check_places(train)
    for model in ("lab", "smollm2", "org/model", "/models/llama", "/models/llama.gguf"):
        check_places(_search(registry="sqlite:////shared/mlflow.db", base={"model": model}))


def test_a_base_in_a_folder_is_named_as_far_as_it_is_known(
    tiny_folder: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (note,) = prepare(_train({"lab": "reverse"}, base={"model": "/models/llama"})).notes
    assert note == "base.model is /models/llama: the cluster must have it at this path"
    here = prepare(_train({"lab": "reverse"}, base={"model": str(tiny_folder)}))
    slug = base_slug("tiny", fingerprint(tiny_folder))
    assert here.notes == (
        f"base.model is {tiny_folder} ({slug} on this machine): the cluster must have it at this path",
    )
    assert here.metadata[BASE] == slug
    # On the cluster.
    with here.packed() as environment:
        prepare_base(Path(environment["working_dir"]))
    gone = here.spec.model_copy(update={"base": BaseSpec(model="/models/gone")})
    (project / SPEC_FILE).write_text(dump_spec(gone))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": here.metadata}))
    with pytest.raises(BaseModelError) as refused:
        prepare_base(project)
    assert f"base.model is '/models/gone' ({slug} on the machine that submitted the job), which is not on " in str(
        refused.value
    )
    assert "a hub id or to an absolute path that the cluster's nodes share" in refused.value.remedy
    assert "`zfleet train SPEC --address HOST:6379`" in refused.value.remedy


def test_a_submitted_job_sends_its_code_no_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_metadata() == {}
    job = {"runtime_env": {"py_modules": ["gcs://a.zip"]}, "metadata": {CODE_VERSION: "0.1.0 (abc)"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert code_environment() == {}
    code_version.cache_clear()
    assert code_version() == "0.1.0 (abc)"
    code_version.cache_clear()

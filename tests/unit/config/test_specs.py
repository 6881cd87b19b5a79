"""Reading job specs: examples, overrides, and the errors for mistakes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.compare import AblateSpec, CompareSpec
from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.load import dump_spec, load_job, load_spec, parse_spec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.spec import Spec
from zfleet.config.specs import EngineSpec, TrainSpec, VllmSpec
from zfleet.config.transfer import TransferSpec
from zfleet.errors import SpecError
from zfleet.rewards.text import Contains
from zfleet.tasks.build import build_task

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "jobs" / "specs").glob("*.yaml"))
LAB = ROOT / "jobs" / "specs" / "lab-experts.yaml"


def refusal(data: dict[str, Any], kind: type[Spec] = TrainSpec) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(data, kind)
    assert caught.value.remedy
    return caught.value.message


def minimal(**values: Any) -> dict[str, Any]:
    return {"experts": [{"name": "a", "task": {"lab": "sort"}}], **values}


@pytest.mark.parametrize("place", ["expert", "learner"])
def test_experts_of_a_job_cannot_disagree_on_targets(place: str) -> None:
    own = {"targets": "mlp"} if place == "expert" else {"learner": {"targets": "mlp"}}
    message = refusal({"experts": [{"name": "a", "task": {"lab": "sort"}, **own}], "cohort": 2})
    assert "targets belong to `base`" in message


def test_a_split_base_needs_several_workers_and_vllm() -> None:
    assert "split is true, num_workers is 1 and engine.kind is 'torch'" in refusal(minimal(split=True))
    assert parse_spec(minimal(split=True, num_workers=2, engine="vllm"), TrainSpec).split


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads_and_equals_its_dump(path: Path) -> None:
    job = load_job(path)
    assert parse_spec(yaml.safe_load(dump_spec(job)), type(job)) == job


def test_there_is_an_example_of_each_kind() -> None:
    assert {path.stem for path in EXAMPLES} >= {"lab-experts", "lab-mix", "stories", "serve"}
    kinds = {TrainSpec, CompareSpec, AblateSpec, SearchSpec, EvaluateSpec, CalibrateSpec, TransferSpec, ServeSpec}
    assert {type(load_job(path)) for path in EXAMPLES} == kinds


def test_a_transfer_has_two_bases_and_no_keys_of_a_search_that_it_does_not_run() -> None:
    given = {"origin": {"model": "lab"}, "base": {"model": "./b"}, "experts": ["a"], "task": {"lab": "sort"}}
    assert parse_spec(given, TransferSpec).engine.slots == 192
    assert "both 'lab': name two bases" in refusal(given | {"base": {"model": "lab"}}, TransferSpec)
    unused = refusal(given | {"shots": 3, "storage": "elsewhere"}, TransferSpec)
    assert "shots, storage have no effect without a search" in unused
    assert parse_spec(given | {"shots": 3, "storage": "elsewhere", "search": True}, TransferSpec).search
    reward = {"kind": "exact", "on_error": "skip"}
    skipping = given | {"task": {"jsonl": "rows.jsonl", "reward": reward}}
    assert not parse_spec(skipping, TransferSpec).search
    assert "a search compares candidates on the same shots" in refusal(skipping | {"search": True}, TransferSpec)


def test_the_story_openings_make_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    task = build_task(load_spec(Path("jobs/specs/stories.yaml"), TrainSpec).experts[0].task)
    samples = (*task.train, *task.test)
    assert len(samples) >= 200
    assert len({sample.prompt for sample in samples}) == len(samples)
    assert isinstance(task.reward, Contains)
    # No opening may contain the word already.
    assert not any(task.reward(sample.prompt, sample).right for sample in samples)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (minimal(learnr={}), "unknown key 'learnr': did you mean 'learner'?"),
        (minimal(learner={"step": 3}), "unknown key 'learner.step': did you mean 'steps'?"),
        (
            {"experts": [{"name": "a", "task": {"lab": "sort", "reward": {"knd": "exact"}}}]},
            "unknown key 'experts.0.task.reward.knd': did you mean 'kind'?",
        ),
        (
            {"experts": [{"name": "a", "task": {"lab": "sort"}, "learner": {"stepz": 3}}]},
            "unknown key 'experts.0.learner.stepz': did you mean 'steps'?",
        ),
        (minimal(resources={"zzz": 1}), "unknown key 'resources.zzz': known keys: cpus, gpus, memory, torch_threads"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_valid_one(data: dict[str, Any], message: str) -> None:
    assert message in refusal(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (minimal(learner={"steps": "many"}), "learner.steps is 'many'"),
        (minimal(learner={"steps": 0}), "learner.steps is 0"),
        (minimal(learner=3), "learner is 3"),
        (minimal(base={"device": "tpu"}), "base.device is 'tpu'"),
        ({"experts": [{"name": "a", "task": {"dataset": "gms8k"}}]}, "or 'classify'; did you mean 'gsm8k'?"),
        (minimal(run=True), "run is True: Input should be a valid string (a text that YAML reads as another type"),
        (minimal(kind="search"), "kind is 'search'"),
        (minimal(learner={"estimator": "rloo"}), "samples_per_prompt of 2 or more"),
        (minimal(num_workers=3), "prompts_per_step 128 of expert 'a' is not a multiple of num_workers 3"),
        ({}, "experts is missing"),
        ({"experts": []}, "experts is []"),
        ({"experts": [{"name": "a", "task": {}}]}, "exactly one of `lab`, `generated`, `dataset`, `jsonl`"),
        (
            {"experts": [{"name": "a", "task": {"lab": "sort", "max_tokens": 9}}]},
            "a `lab` task does not use: max_tokens",
        ),
        (
            {"experts": [{"name": "a", "task": {"lab": "sort"}, "learner": {"lr": -1}}]},
            "experts.0.learner.lr is -1",
        ),
        (
            {"experts": [{"name": "a", "task": {"lab": "sort"}, "learner": {"prompts_per_step": 3}}], "num_workers": 2},
            "prompts_per_step 3 of expert 'a'",
        ),
    ],
)
def test_a_wrong_value_is_named(data: dict[str, Any], message: str) -> None:
    assert message in refusal(data)


def test_every_problem_is_in_one_message_and_only_real_ones() -> None:
    message = refusal({"experts": [{"name": "a b", "task": {"lab": "sort"}}], "learnr": {}, "num_workers": 0})
    assert message.count(";") == 2
    for part in ("experts.0.name is 'a b'", "'learnr'", "num_workers is 0"):
        assert part in message
    # pydantic removes invalid items before it counts them; that follow-up error is not reported.
    assert "at least 1 item" not in message


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("learner.steps=7", lambda job: job.learner.steps, 7),
        ("learner.lr=1e-3", lambda job: job.learner.lr, 0.001),
        ("experts.1.name=mirror", lambda job: job.experts[1].name, "mirror"),
        ("experts.0.task.lab=add", lambda job: job.experts[0].task.lab, "add"),
        ("experts.0.learner.kl=0.5", lambda job: job.learner_of(job.experts[0]).kl, 0.5),
        ("engine.max_length=64", lambda job: job.engine.max_length, 64),
        ("registry=http://host:5000/?a=b", lambda job: job.registry, "http://host:5000/?a=b"),
        ("registry=", lambda job: job.registry, None),
        ("experts.4.task={lab: sort, verbs: clear}", lambda job: job.experts[4].task.verbs, "clear"),
    ],
)
def test_set_replaces_one_value(override: str, get: Any, value: object) -> None:
    assert get(load_spec(LAB, TrainSpec, [override])) == value


def test_set_applies_in_order_and_needs_no_file() -> None:
    assert load_spec(None, ServeSpec, ["port=1", "port=2", "labels.sum=add"]).labels == {"sum": "add"}
    assert load_spec(None, ServeSpec, ["port=1", "port=2"]).port == 2


def test_set_reaches_below_a_key_that_was_left_blank(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("engine:\n")
    assert load_spec(path, ServeSpec, ["engine.slots=3"]).engine.slots == 3


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        (ServeSpec, EngineSpec(kind="auto", slots=32)),
        (SearchSpec, EngineSpec(kind="auto", slots=192)),
        (TrainSpec, EngineSpec(kind="torch", slots=128)),
    ],
)
@pytest.mark.parametrize(
    ("written", "changes", "expected"),
    [
        ({}, ["engine=vllm"], {"kind": "vllm"}),
        ({}, ["engine.kind=vllm"], {"kind": "vllm"}),
        ({"engine": "vllm"}, [], {"kind": "vllm"}),
        ({"engine": {"kind": "vllm"}}, [], {"kind": "vllm"}),
        ({}, ["engine.z_rows=9"], {"z_rows": 9}),
        ({}, ["engine=torch", "engine.slots=7"], {"slots": 7, "kind": "torch"}),
        ({}, ["engine.slots=7", "engine=vllm"], {"slots": 7, "kind": "vllm"}),
        ({"engine": "vllm"}, ["engine.slots=7"], {"slots": 7, "kind": "vllm"}),
        ({"engine": {"slots": 7}}, ["engine=vllm"], {"slots": 7, "kind": "vllm"}),
        (
            {"engine": {"slots": 7, "kind": "vllm", "vllm": {"members": 3}}},
            ["engine=torch"],
            {"slots": 7, "kind": "torch"},
        ),
        (
            {"engine": {"kind": "torch"}},
            ["engine=vllm", "engine.vllm.members=3"],
            {"kind": "vllm", "vllm": VllmSpec(members=3)},
        ),
    ],
)
def test_an_engine_keeps_the_settings_that_no_override_changes(
    tmp_path: Path,
    kind: type[TrainSpec | SearchSpec | ServeSpec],
    default: EngineSpec,
    written: dict[str, Any],
    changes: list[str],
    expected: dict[str, Any],
) -> None:
    required: dict[type[Any], dict[str, Any]] = {
        ServeSpec: {},
        TrainSpec: minimal(),
        SearchSpec: {"experts": ["math"], "task": {"lab": "math"}, "name": "mixed"},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(required[kind] | written))
    assert load_spec(path, kind, changes).engine == default.model_copy(update=expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.steps", "is not an assignment"),
        ("=3", "is not an assignment"),
        ("learner.step=3", "unknown key 'learner.step': did you mean 'steps'?"),
        ("experts.9.name=x", "'9' is not an index of a list of 5"),
        ("experts.first.name=x", "'first' is not an index of a list of 5"),
        ("experts.²=x", "'²' is not an index of a list of 5"),
        ("run.x=1", "run is 'lab-experts', which has no keys"),
        ("run.x.y=1", "run is 'lab-experts', which has no keys"),
        ("experts.0.name.x.y=1", "experts.0.name is 'reverse', which has no keys"),
        ("learner.steps=[", "the value is not YAML"),
        ("learner.steps=soon", "learner.steps is 'soon'"),
    ],
)
def test_a_bad_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(LAB, TrainSpec, [override])
    assert message in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "is not YAML"),
        (b"a: 1\nb: \xff", "is not UTF-8: invalid start byte in line 2"),
        ("kind: train".encode("utf-16"), "is not UTF-8: invalid start byte in line 1"),
        (b"kind:\ttrain\n\trun: a", "is not YAML"),
        (b"kind: trian\r\nrun: a", "kind is 'trian'"),
        ("\ufeffkind: trian".encode(), "kind is 'trian'"),
        (b"# nothing", "is not a mapping"),
        (b"train", "is not a mapping"),
        (b"kind: serve\n7: 8", "7 is 7: Keys should be strings"),
        (b"kind: serve\nengin: {}", "unknown key 'engin': did you mean 'engine'?"),
        (b"{kind: serve, port: 1, port: 2}", "`port` is given twice, in line 1"),
        (b"", "is not a mapping"),
        (b"- a", "is not a mapping"),
        (b"kind: trian", "kind is 'trian'"),
        (b"kind: [train]", "kind is ['train']"),
        (b"base: {}", "kind is None"),
    ],
)
def test_a_file_that_is_not_a_spec_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        load_spec(tmp_path / "job.yaml", TrainSpec)


def test_specs_load_without_torch() -> None:
    check = "import sys, zfleet.config.load; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (SearchSpec, "temperature"),
        (SearchSpec, "method.std_floor"),
        (EvaluateSpec, "temperature"),
        (SearchSpec, "objective.0.accuracy"),
    ],
)
def test_numbers_of_a_spec_are_finite(kind: type[Spec], key: str) -> None:
    task = {"task": {"lab": "sort"}} if kind is SearchSpec else {"tasks": {"sort": {"lab": "sort"}}}
    first, *rest = key.split(".")
    value: Any = {rest[-1]: math.inf} if rest else math.inf
    message = refusal({"name": "x", "experts": ["a"], **task, first: value}, kind)
    assert f"{key} is inf" in message
    assert "finite" in message

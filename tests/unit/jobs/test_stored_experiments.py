"""Where an experiment keeps its trainings: under all that they depend on, and told apart by the code that trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from zfleet.config.compare import AblateSpec, CompareSpec
from zfleet.config.load import load_spec, parse_spec
from zfleet.config.specs import BaseSpec
from zfleet.errors import JobError, SpecError
from zfleet.models.bundle import BaseBundle
from zfleet.rewards.text import Exact
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet_jobs.compare.run import trials_of
from zfleet_jobs.compare.stored import StoredTrial, open_storage, store_spec, stored_trials, warn_of_other_code
from zfleet_jobs.samples.layout import in_step, sample_file
from zfleet_jobs.testing.outcomes import outcomes_of

BUNDLE = BaseBundle("tiny", "f" * 64, BaseSpec(), 64, "d" * 64, Path("model"), Path("factors"))
TASK = Task("t", (Sample("0", "p"),), (Sample("1", "q"),), PromptTemplate("{prompt}"), Exact(""), 4)
REGEX = r"model\.layers\.[0-3]\..*(q|k)_proj"


def _spec(storage: Path | str, **values: Any) -> CompareSpec:
    given = {
        "tasks": {"t": {"lab": "sort"}},
        "methods": {"svf": {}, "lora": {"adapter": "lora"}},
        "against": "lora",
        "seeds": [0],
        "storage": str(storage),
    }
    return parse_spec(given | values, CompareSpec)


def _stored(spec: CompareSpec | AblateSpec) -> dict[str, StoredTrial]:
    bundles = dict.fromkeys(("all", *(m.targets for m in spec.methods.values() if m.targets)), BUNDLE)
    stored = stored_trials(open_storage(spec), spec, trials_of(spec), bundles, {"t": TASK})
    return {trial.method: place for trial, place in stored.items()}


def test_an_outcome_is_stored_and_found_again(tmp_path: Path) -> None:
    stored = _stored(_spec(tmp_path / "new"))["svf"]
    assert stored.outcome() is None
    (outcome,) = outcomes_of("svf", [[1.0, None, -1.0]])
    stored.store(outcome)
    assert stored.outcome() == outcome
    assert _stored(_spec(tmp_path / "new"))["svf"].outcome() == outcome


def test_only_what_depends_on_a_change_is_another_training(tmp_path: Path) -> None:
    before = _stored(_spec(tmp_path))
    rank = _stored(_spec(tmp_path, methods={"svf": {}, "lora": {"adapter": "lora", "rank": 4}}))
    assert rank["svf"] == before["svf"]
    assert rank["lora"].file != before["lora"].file
    assert rank["lora"].folder.samples != before["lora"].folder.samples
    steps = _stored(_spec(tmp_path, learner={"steps": 7}))
    assert not {place.file for place in steps.values()} & {place.file for place in before.values()}
    assert _stored(_spec(tmp_path, seeds=[0, 1], against="svf"))["svf"].file != before["svf"].file, "the last is seed 1"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"method": "svf"}'])
def test_a_damaged_result_is_named(data: bytes, tmp_path: Path) -> None:
    stored = _stored(_spec(tmp_path))["svf"]
    stored.storage.put(stored.file, data)
    with pytest.raises(JobError, match=f"{stored.file} is damaged") as caught:
        stored.outcome()
    assert caught.value.remedy == "delete it: its training runs again"


def test_a_storage_that_cannot_be_written_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    spec = _spec(tmp_path / "file")
    with pytest.raises(JobError, match=r"file cannot be written"):
        store_spec(open_storage(spec), spec)
    with pytest.raises(SpecError, match=r"storage is 'sftp://host/runs'"):
        open_storage(_spec("sftp://host/runs"))


def test_a_storage_may_be_a_uri(tmp_path: Path) -> None:
    spec = _spec(f"file://{tmp_path}/runs")
    store_spec(open_storage(spec), spec)
    assert load_spec(tmp_path / "runs" / "compare.yaml", CompareSpec) == spec
    stored = _stored(spec)["svf"]
    (outcome,) = outcomes_of("svf", [[1.0]])
    stored.store(outcome)
    assert stored.outcome() == outcome
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "the URI became no folder's name"


def test_samples_lie_where_their_reader_looks_whatever_a_method_is_called(tmp_path: Path) -> None:
    grid = {"targets": [REGEX, f"{REGEX}|{'x' * 300}"], "objectives": ["reinforce"], "parametrisations": ["exp"]}
    given = {"tasks": {"t": {"lab": "sort"}}, "seeds": [5], "storage": str(tmp_path), **grid}
    first, second = _stored(parse_spec(given, AblateSpec)).values()
    assert first.folder.samples != second.folder.samples
    for stored in (first, second):
        folder = in_step(stored.folder.samples, 1)
        Path(folder).mkdir(parents=True)
        root = f"{tmp_path}/samples"
        found = sample_file(root, f"{folder}/worker-0.parquet")
        assert found is not None
        assert (found.training.run, found.step) == ("ablate", 1)
        assert found.training.expert.startswith("model-.layers-.-0-3-")
        assert found.training.expert.endswith("-t-5")


def test_results_of_other_code_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outcomes = outcomes_of("svf", [[1.0], [1.0]])
    with caplog.at_level(logging.WARNING):
        warn_of_other_code(outcomes, "1", open_storage(_spec(tmp_path)))
        assert not caplog.messages
        warn_of_other_code(outcomes, "2", open_storage(_spec(tmp_path)))
    (told,) = caplog.messages
    assert told.startswith(f"2 trainings in {tmp_path} were finished by zfleet 1, this is 2")
    assert "--set storage=FOLDER" in told

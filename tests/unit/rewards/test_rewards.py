"""Graders, rewards written by users, and building both from a spec."""

from __future__ import annotations

import importlib
import linecache
import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from zfleet.config.task_specs import PartSpec, RewardSpec
from zfleet.errors import RewardError, SpecError
from zfleet.rewards.build import build_reward
from zfleet.rewards.grading import grade_all, reward_identity
from zfleet.rewards.python import PythonReward, resolve
from zfleet.rewards.soft import Soft
from zfleet.rewards.text import Contains, Exact, Regex
from zfleet.rewards.weighted import Part, Weighted
from zfleet.tasks.task import Reward, Sample, Ungraded

SAMPLE = Sample("row-7", "What is it?", "Cat", {"owner": "Mia"})


@pytest.mark.parametrize(
    ("reward", "completion", "right"),
    [
        (Exact(), " Cat\n", True),
        (Exact(), "cat", False),
        (Exact(), "Cat.", False),
        (Exact("dog"), "dog", True),
        (Exact("dog"), "Cat", False),
        (Contains(), "A Cat sat.", True),
        (Contains(), "A cat sat.", False),
        (Contains("play"), "They played.", True),
        (Contains("play"), "They slept.", False),
        (Regex(r"\bplay(ed)?\b"), "They played.", True),
        (Regex(r"\bplay(ed)?\b"), "A playful dog.", False),
        (Regex("(?i)CAT"), "cat", True),
    ],
)
def test_a_grade_is_plus_or_minus_one(reward: Reward, completion: str, right: bool) -> None:
    assert reward(completion, SAMPLE).value == (1.0 if right else -1.0)


@pytest.fixture
def rewards_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module into the current folder, which is not on the path, as for the command line."""
    name = f"rewards_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import math\n"
        "def length(completion, sample):\n    return len(completion) / len(sample.answer)\n"
        "def raises(completion, sample):\n    raise KeyError('owner')\n"
        "def text(completion, sample):\n    return '1.0'\n"
        "def nan(completion, sample):\n    return math.nan\n"
        "def huge(completion, sample):\n    return 10 ** 400\n"
        "class Nested:\n    grade = staticmethod(length)\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return name


def test_a_python_reward_is_called_and_travels_by_name(rewards_module: str) -> None:
    reward = build_reward(RewardSpec(kind="python", value=f"{rewards_module}:length"))
    assert reward("abcdef", SAMPLE).value == 2.0
    again = pickle.loads(pickle.dumps(reward))  # noqa: S301
    assert again == reward
    assert again("abcdef", SAMPLE).value == 2.0
    assert PythonReward(f"{rewards_module}:Nested.grade")("abcdef", SAMPLE).value == 2.0


def test_a_python_reward_is_not_imported_before_it_is_used() -> None:
    reward = PythonReward("no_such_module_anywhere:f")
    with pytest.raises(SpecError, match="no_such_module_anywhere"):
        reward("", SAMPLE)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("raises", "raised KeyError: 'owner'"),
        ("text", "returned '1.0', which is not a number"),
        ("nan", "returned nan, which is not finite"),
        ("huge", "which is not finite"),
    ],
)
def test_a_failing_reward_names_function_sample_and_reason(rewards_module: str, function: str, reason: str) -> None:
    name = f"{rewards_module}:{function}"
    with pytest.raises(RewardError) as caught:
        PythonReward(name)("x", SAMPLE)
    message = caught.value.message
    assert name in message
    assert "row-7" in message
    assert reason in message
    assert "on_error" in caught.value.remedy


def test_numbers_of_other_types_become_floats(rewards_module: str) -> None:
    value = PythonReward(f"{rewards_module}:length")("abcd", SAMPLE).value
    assert type(value) is float
    assert math.isfinite(value)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("regex", "(unclosed", "is not a regular expression"),
        ("regex", "", "is empty"),
        ("python", "", "names no function"),
        ("python", "module_without_function", "names no function"),
        ("python", "no_such_module_anywhere:f", "ModuleNotFoundError"),
        ("python", "math:no_such_function", "has no 'no_such_function'"),
        ("python", "math:pi", "is a float, not a function"),
        ("python", "..relative:f", "importing ..relative fails"),
    ],
)
def test_a_reward_that_cannot_be_built_is_refused(kind: str, value: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_reward(RewardSpec.model_validate({"kind": kind, "value": value}))
    assert "reward.value" in caught.value.message
    assert message in caught.value.message
    assert caught.value.remedy


def test_a_module_that_fails_on_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_rewards_module.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SpecError, match="ZeroDivisionError"):
        build_reward(RewardSpec(kind="python", value="broken_rewards_module:f"))


def test_an_edited_function_is_another_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "edited_reward.py"
    monkeypatch.syspath_prepend(tmp_path)
    identities = []
    for value in (1.0, 1.0, 0.5):
        module.write_text(f"def grade(completion, sample):\n    return {value}\n")
        monkeypatch.delitem(sys.modules, "edited_reward", raising=False)
        linecache.clearcache()
        importlib.invalidate_caches()
        reward = PythonReward("edited_reward:grade")
        identities.append(reward_identity(reward))
        shipped = replace(reward, function=resolve(reward.name))
        assert reward_identity(shipped) == identities[-1], "the reward that is sent must be the one that was planned"
    assert identities[0] == identities[1] != identities[2]
    assert reward_identity(Contains("a")) != reward_identity(Contains("b"))


SCORED = Sample("row-8", "What game?", '{"Rock, paper, scissors": 1, "3": 0.667, "don\'t know": 0.3, "a": 0.9}')


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("The", -1.0),
        ("rock paper  scissors", 1.0),
        (" The Rock, Paper, Scissors.\n", 1.0),
        ("Three", 0.334),
        ("dont know", -0.4),
        ("rock", -1.0),
        ("", -1.0),
        ("3.5", -1.0),
    ],
)
def test_a_soft_grade_follows_the_scores_of_peoples_answers(completion: str, value: float) -> None:
    grade = Soft()(completion, SCORED)
    assert grade.value == pytest.approx(value)
    assert grade.right == (value > 0)
    assert "best is 'rock paper scissors' with 1" in grade.reason


@pytest.mark.parametrize("value", ["NaN", "Infinity", "eighteen", "1/0", "1e999999999"])
def test_a_value_without_a_number_is_refused(value: str) -> None:
    with pytest.raises(SpecError, match=r"reward\.value.*holds no number"):
        build_reward(RewardSpec(kind="number", value=value))
    with pytest.raises(SpecError, match=r"reward\.value.*holds no number"):
        build_reward(RewardSpec(kind="sum", parts={"one": PartSpec(kind="number", value=value)}))


@pytest.mark.parametrize("value", ["[]", "{}", "x", "[" * 100_000, '{"a": 2}', '{"a": true}', '{"a": NaN}'])
def test_invalid_scores_are_refused(value: str) -> None:
    with pytest.raises(SpecError, match=r"reward\.value"):
        build_reward(RewardSpec(kind="soft", value=value))


def test_none_leaves_a_sample_of_another_task_out() -> None:
    def only_b(completion: str, sample: Sample) -> float | None:
        return 0.5 if sample.prompt == "b" else None

    reward = PythonReward("module:only_b", only_b)
    samples = [Sample("1", "a"), Sample("2", "b")]
    grades = grade_all(reward, [(sample, "text") for sample in samples])
    other = Ungraded("reward module:only_b returned None: sample 1 does not belong to its task")
    assert grades == [other, reward("text", samples[1])]
    both = Weighted((Part("only_b", 2.0, reward), Part("has", 1.0, Contains("t"))))
    sums = [both("text", sample) for sample in samples]
    assert [grade.value for grade in sums] == [1.0, 2.0]
    assert [dict(grade.parts) for grade in sums] == [{"has": 1.0}, {"only_b": 0.5, "has": 1.0}]
    (ungraded,) = grade_all(Weighted((Part("only_b", 2.0, reward),)), [(samples[0], "text")])
    assert ungraded == Ungraded("no part of the reward grades sample 1")

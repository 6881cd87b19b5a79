"""The spec of a search: methods with their settings, spaces and objectives, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from zfleet.config.load import apply_overrides, dump_spec, parse_spec
from zfleet.config.search import SearchMethodSpec, SearchSpec
from zfleet.errors import SpecError

SUM = {
    "jsonl": "rows.jsonl",
    "reward": {"kind": "sum", "parts": {"right": {}, "short": {"kind": "length", "value": "9"}}},
}
"""A task whose reward has parts."""


def search(**values: Any) -> SearchSpec:
    return parse_spec({"experts": ["a", "b"], "task": {"lab": "sort"}, "name": "mix", **values}, SearchSpec)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # Settings of a method, given to another one.
        ({"method": {"name": "random", "elites": 0.1}}, "method `random` does not use: elites"),
        ({"method": {"name": "cem", "ema": 0.5, "ties": False}}, "method `cem` does not use: ema, ties"),
        ({"method": {"name": "reference", "std_floor": 0}}, "method `reference` does not use: std_floor"),
        ({"method": {"name": "tpe", "best_again": False}}, "method `tpe` does not use: best_again"),
        ({"method": "cmeas"}, "method.name is 'cmeas'"),
        ({"method": {"elites": 0}}, "method.elites is 0"),
        ({"method": {"name": "reference", "ema": 1}}, "method.ema is 1"),
        # Keys of before.
        ({"elites": 0.1}, "unknown key 'elites'"),
        ({"per_layer": True}, "unknown key 'per_layer'"),
        # The space.
        ({"space": {"low": 0.1}}, "low is 0.1 and high 1: the base, all alphas 0, lies outside"),
        ({"space": {"low": -1, "high": 0}}, "low is -1 and high 0: the base, all alphas 0, lies outside"),
        ({"space": {"sum_to_one": True, "high": 0.5}}, "sum_to_one is true and high 0.5: an expert alone"),
        ({"space": {"high": float("inf")}}, "space.high is inf"),
        ({"space": {"alphas": "head"}}, "space.alphas is 'head'"),
        ({"space": {"max_experts": 3}}, "space.max_experts is 3, but there are 2 experts"),
        ({"space": {"max_experts": 0}}, "space.max_experts is 0"),
        ({"space": {"screen": 0}}, "space.screen is 0: write `auto`, or a whole number of 1 or more"),
        # The objective.
        ({"objective": ["accuracy", "reward"]}, "objective has two targets, but method is `cem`: choose `nsga2`"),
        (
            {"objective": "acuracy"},
            "objective names acuracy: write accuracy, reward, log_likelihood; part.NAME is for a task whose reward is",
        ),
        ({"objective": {"accuracy": 1, "part.": 1}}, "objective names part.: write"),
        ({"objective": "part.short"}, "objective names part.short: write accuracy, reward, log_likelihood; part.NAME"),
        (
            {"objective": {"part.shrot": 1, "reward": 1}, "task": SUM},
            "objective names part.shrot: write accuracy, reward, log_likelihood, part.right, part.short",
        ),
        ({"objective": {"accuracy": float("nan")}}, "objective.0.accuracy is nan: Input should be a finite number"),
        ({"objective": ["accuracy", {"reward": float("-inf")}], "method": "nsga2"}, "objective.1.reward is -inf"),
        ({"objective": "own_log_likelihood"}, "objective names own_log_likelihood: write"),
        ({"objective": {}}, "objective names nothing"),
        ({"objective": []}, "objective is []"),
        ({"objective": ["accuracy"] * 3, "method": "nsga2"}, "at most 2 items"),
        ({"objective": "reward", "method": "reference"}, "method `reference` has the paper's objective, accuracy"),
        ({"study": "studies.db"}, "study is no URL of a database: write postgresql://HOST/NAME or sqlite:///FILE"),
        # Sizes.
        ({"shots": 4, "block": 5}, "block is 5, but there are 4 shots: give from 1 to 4"),
        ({"block": 0}, "block is 0: write `auto`"),
        ({"block": 3, "racing": False}, "block is 3, but without racing nothing is compared in blocks: leave it out"),
        # What the paper's code has nothing for.
        ({"method": "reference", "selection": 5}, "method `reference` does not use selection: the paper's code"),
        (
            {"method": "reference", "racing": False, "test_samples": 9, "space": {"screen": 2}},
            "does not use test_samples, racing, space.screen: the paper's code neither races nor screens, begins at "
            "equal parts, returns its best on the shots and reports on all of the test split; leave them out, or",
        ),
        ({"method": "reference", "block": 3}, "method `reference` does not use block"),
        ({"method": "reference", "space": {"prior": "router"}}, "method `reference` does not use space.prior"),
        ({"space": {"prior": "no/such/reference"}}, "space.prior is 'no/such/reference': write a reference such as"),
        ({"trials_per_generation": 33}, "trials_per_generation is 33 for a population of 32"),
        ({"population": 1}, "population is 1"),
        ({"selection": -1}, "selection is -1"),
        ({"test_samples": -1}, "test_samples is -1"),
        ({"temperature": -0.5}, "temperature is -0.5"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        search(**values)
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("written", "method"),
    [
        ("cem", SearchMethodSpec()),
        ({"name": "cem", "elites": 0.1}, SearchMethodSpec(elites=0.1)),
        ({"elites": 0.1}, SearchMethodSpec(elites=0.1)),
        ({"name": "reference", "ema": 0.5}, SearchMethodSpec(name="reference", ema=0.5)),
        ("gp", SearchMethodSpec(name="gp")),
    ],
)
def test_a_method_is_a_name_or_a_name_with_its_settings(written: Any, method: SearchMethodSpec) -> None:
    assert search(method=written).method == method
    assert SearchMethodSpec.model_validate(method.model_dump()) == method


@pytest.mark.parametrize("written", [{}, {"method": "cem"}, {"method": {"name": "cem", "std_floor": 0.1}}])
def test_a_setting_of_a_method_can_be_set_however_the_method_is_written(written: dict[str, Any]) -> None:
    apply_overrides(written, ["method.elites=0.1"])
    assert search(**written).method.elites == 0.1
    apply_overrides(written, ["method=tpe"])
    assert search(**written).method == SearchMethodSpec(name="tpe")


def test_settings_that_are_the_defaults_are_not_written() -> None:
    assert search(method={"name": "reference", "ties": False}).method.model_dump() == {
        "name": "reference",
        "ties": False,
    }
    written: object = search(method={"name": "cem", "elites": 0.2}).method.model_dump()
    assert written == "cem"


@pytest.mark.parametrize(
    ("written", "targets"),
    [
        ("accuracy", [{"accuracy": 1.0}]),
        ("part.short", [{"part.short": 1.0}]),
        ({"reward": 1, "log_likelihood": 0.1}, [{"reward": 1.0, "log_likelihood": 0.1}]),
        (["accuracy", {"part.short": -2}], [{"accuracy": 1.0}, {"part.short": -2.0}]),
    ],
)
def test_an_objective_is_a_metric_a_weighted_sum_or_two_of_them(written: Any, targets: list[Any]) -> None:
    spec = search(objective=written, method="nsga2", task=SUM)
    assert list(spec.objective) == targets
    assert parse_spec(yaml.safe_load(dump_spec(spec)), SearchSpec) == spec


def test_parts_of_a_function_are_known_when_it_is_called() -> None:
    task = {"jsonl": "rows.jsonl", "reward": {"kind": "python", "value": "rewards:mine"}}
    assert search(objective="part.colour", task=task).objective == ({"part.colour": 1.0},)


def test_the_shots_choose_the_winner_of_the_papers_code() -> None:
    assert search(selection=5).finals == 5
    assert search(method="reference").finals == 0


@pytest.mark.parametrize(
    ("values", "block"),
    [
        ({"shots": 40}, 5),
        ({"shots": 10}, 2),
        ({"shots": 1}, 1),
        ({"shots": 40, "block": 13}, 13),
        ({"racing": False}, None),
        ({"method": "reference"}, None),
    ],
)
def test_races_compare_first_after_an_eighth(values: dict[str, Any], block: int | None) -> None:
    assert search(**values).shots_in_a_block == block


@pytest.mark.parametrize(
    ("experts", "screen", "left"),
    [(12, "auto", None), (13, "auto", 8), (13, 3, 3), (3, 2, 2), (3, 3, None), (3, 9, None)],
)
def test_of_many_experts_the_best_are_searched_over(experts: int, screen: object, left: int | None) -> None:
    spec = search(experts=[f"e{number}" for number in range(experts)], space={"screen": screen})
    assert spec.screened == left

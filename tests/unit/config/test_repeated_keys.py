"""A key that is given twice is refused in every input: specs, overrides, rows and reference answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.config.load import load_job, load_spec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import TrainSpec
from zfleet.config.yaml_text import MOST_VALUES, read_yaml
from zfleet.errors import SpecError, TaskError
from zfleet.rewards.soft import soft_scores
from zfleet.tasks.rows import Row, read_rows
from zfleet.unique_keys import unique_keys

TRAIN = """\
kind: train
run: lab
learner:
  steps: 5
experts:
  - name: sort
    task:
      lab: sort
learner:
  steps: 7
"""
KEYS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def refusal(text: str, source: str = "spec") -> SpecError:
    with pytest.raises(SpecError) as caught:
        read_yaml(text, source)
    assert caught.value.remedy
    return caught.value


def rows_of(path: Path, text: str) -> list[Row]:
    path.write_text(text)
    return list(read_rows(path))


def test_a_spec_that_gives_a_key_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(TRAIN)
    for read in (load_job, lambda path: load_spec(path, TrainSpec, ["run=other"])):
        with pytest.raises(SpecError) as caught:
            read(path)
        assert caught.value.message == f"spec {path}: `learner` is given twice, in lines 3 and 9"
        assert caught.value.remedy == "keep one of the two"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\n\n# again\na: 1\n", "`a` is given twice, in lines 1 and 5"),
        ("x:\n  a: 1\n  b: 2\n  a: 3\n", "`a` is given twice, in lines 2 and 4"),
        ("x:\n  - y\n  - a: 1\n    a: 3\n", "`a` is given twice, in lines 3 and 4"),
        ("x: {a: 1, b: 2, a: 3}\n", "`a` is given twice, in line 1"),
        ('{"x": [{"a": 1, "a": 1}]}', "`a` is given twice, in line 1"),
        ("a: 1\n'a': 2\n", "`a` is given twice, in lines 1 and 2"),
        ('? "a"\n: 1\n? a\n: 2\n', "`a` is given twice, in lines 1 and 3"),
        ("7: 1\n7: 2\n", "`7` is given twice, in lines 1 and 2"),
        ("a: 1\na: 2\na: 3\n", "`a` is given twice, in lines 1 and 2"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: {b: 1}\n", "`<<` is given twice, in lines 3 and 4"),
        ("x: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}\n", "`b` is given twice, in line 2"),
    ],
)
def test_the_key_and_its_lines_are_named_at_any_depth(text: str, message: str) -> None:
    assert refusal(text, "spec job.yaml").message == f"spec job.yaml: {message}"


def test_a_key_merged_from_an_anchor_may_be_given_again(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: &c {<<: *b, x: 3}\nd: {<<: [*c, *a], z: *a}\n"
    a = {"x": 1, "y": 1}
    assert read_yaml(text, "") == {"a": a, "b": {"x": 2, "y": 1}, "c": {"x": 3, "y": 1}, "d": {"x": 3, "y": 1, "z": a}}
    assert read_yaml("a: {x: 1}\nb: {x: 1}\nc: [x, x]", "") == {"a": {"x": 1}, "b": {"x": 1}, "c": ["x", "x"]}
    assert read_yaml("1: a\n'1': b", "") == {1: "a", "1": "b"}


@settings(deadline=None)
@given(PLAIN)
def test_data_without_repeated_keys_is_read_unchanged(data: object) -> None:
    text = yaml.safe_dump(data, allow_unicode=True)
    assert read_yaml(text, "") == yaml.safe_load(text)
    assert json.loads(json.dumps(data), object_pairs_hook=unique_keys) == data


@settings(deadline=None)
@given(st.dictionaries(KEYS, st.integers(), min_size=1), st.data())
def test_a_repeated_key_is_found_in_any_position(data: dict[str, int], draw: st.DataObject) -> None:
    pairs = list(data.items())
    repeated = draw.draw(st.sampled_from(pairs))
    pairs.insert(draw.draw(st.integers(0, len(pairs))), repeated)
    text = "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in pairs) + "}"
    message = f"`{repeated[0]}` is given twice"
    assert message in refusal(text).message
    with pytest.raises(ValueError, match="is given twice") as caught:
        json.loads(text, object_pairs_hook=unique_keys)
    assert message in str(caught.value)


def test_an_override_that_gives_a_key_twice_is_refused_and_a_later_override_wins() -> None:
    with pytest.raises(SpecError, match=r"^--set 'labels=\{a: b, a: c\}': the value: `a` is given twice, in line 1"):
        load_spec(None, ServeSpec, ["labels={a: b, a: c}"])
    assert load_spec(None, ServeSpec, ["port=1", "port=2"]).port == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", '{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}\n', ", line 2: `prompt` is given twice, as 'b'"),
        ("t.jsonl", '\n{"id": 1, "more": [{"x": 1, "x": null}]}\n', ", line 2: `x` is given twice, as 1 and None"),
        ("t.json", '[{"id": 1}, {"id": 2, "id": 3}]', ": `id` is given twice, as 2 and 3"),
    ],
)
def test_a_row_that_gives_a_key_twice_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(TaskError) as caught:
        rows_of(tmp_path / name, text)
    assert caught.value.message.startswith(f"{tmp_path / name}{message}")
    assert caught.value.remedy == "keep one of the two"


def test_rows_may_give_the_same_keys_as_other_rows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "t.jsonl", '{"a": 1, "b": {"a": 2}}\n{"a": 1}\n')
    assert [row.data for row in rows] == [{"a": 1, "b": {"a": 2}}, {"a": 1}]


def test_a_reference_that_scores_an_answer_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`yes` is given twice, as 1 and 0\.3"):
        soft_scores('{"yes": 1, "no": 0.2, "yes": 0.3}')


def test_aliases_of_aliases_are_bounded() -> None:
    """Ten lines can stand for ten billion values. A list with many aliases of one small value is allowed."""
    bomb = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 10))
    assert refusal(bomb).message == "spec: line 5 holds more than 100,000 values, those of its aliases included"
    merged = "l0: &l0 {a: 1}\n" + "".join(
        f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 10)}]}}\n" for n in range(1, 10)
    )
    assert "more than 100,000 values" in refusal(merged).message
    assert len(read_yaml("x: &x [1, 2]\ny: [" + "*x, " * 1000 + "]", "")["y"]) == 1000
    assert MOST_VALUES == 100_000


@pytest.mark.parametrize("text", ["&a [*a]", "x: &a {y: {z: *a}}", "x: &a\n  <<: *a\n"])
def test_an_alias_inside_its_own_anchor_is_refused(text: str) -> None:
    assert "refers to a value that contains it" in refusal(text).message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nrun: 2026-13-45\n", "spec: '2026-13-45' in line 2 is not a valid value: month must be in 1..12"),
        ("a: " + "9" * 5000, "in line 1 is not a valid value: Exceeds the limit"),
        ("[" * 5000, "spec is nested too deeply"),
        ("a:\n\tb: 1\n", 'in "spec", line 2'),
        ("a: 1\n---\nb: 1\n", "expected a single document"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_invalid_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    assert message in refusal(text).message

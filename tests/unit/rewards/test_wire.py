"""The messages between examiner and candidate."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfleet.rewards.sandbox.inside.messages import receive, send
from zfleet.rewards.sandbox.inside.wire import Wire

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False)
    | st.fractions()
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(deque)
        | st.frozensets(ATOMS)
        | st.sets(ATOMS)
        | st.dictionaries(ATOMS, inner)
    ),
    max_leaves=20,
)


class _End(Wire):
    """An end without classes or objects of its own: only plain values cross."""

    def _unused(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("only plain values cross in these tests")

    class_item = class_of = stand_in_for = extra = make_class = make = _unused


def _through(value: Any, sender: Wire, receiver: Wire) -> Any:
    item = sender.item(value)
    message = json.loads(json.dumps(sender.message() | {"value": item}))
    receiver.read(message)
    received = receiver.value(message["value"])
    receiver.forget(message.get("forgotten", []))
    return received


@given(VALUES)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    back = _through(value, _End(0), _End(1))
    assert back == value
    assert type(back) is type(value)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=20))
def test_both_ends_see_the_same_after_any_changes(changes: list[tuple[int, int, bool]]) -> None:
    """After changes on either side, lists that hold each other have the same contents and the same aliases."""
    ends = (_End(0), _End(1))
    first: list[Any] = [[number] for number in range(4)]
    second: list[Any] = _through(first, *ends)
    for place, inner, change_first in changes:
        changed = first if change_first else second
        sender, receiver = ends if change_first else ends[::-1]
        changed[place].append(changed[inner])
        _through(None, sender, receiver)
        assert [[_place(item, first) for item in items] for items in first] == [
            [_place(item, second) for item in items] for items in second
        ]


def _place(item: object, lists: list[Any]) -> object:
    return next((place for place, items in enumerate(lists) if items is item), item)


def test_numbers_beyond_json_come_back() -> None:
    huge = -(7**20_000)
    assert _through(huge, _End(0), _End(1)) == huge
    assert math.isnan(_through(float("nan"), _End(0), _End(1)))
    assert _through(math.nan, _End(0), _End(1)) is math.nan
    assert _through(Fraction(1, 3), _End(0), _End(1)) == Fraction(1, 3)


def test_tuples_in_tuples_cross() -> None:
    value: Any = ()
    for _ in range(100):
        value = (value,)
    assert _through(value, _End(0), _End(1)) == value


def test_an_unreferenced_value_is_forgotten_by_both_ends() -> None:
    ends = (_End(0), _End(1))
    received = _through([[1], [2]], *ends)
    for _ in range(3):
        _through(None, *ends)
        _through(None, *reversed(ends))
    assert received == [[1], [2]]
    assert not ends[0]._held
    assert not ends[1]._held


@pytest.mark.parametrize(
    "forged",
    [
        {"value": {}},
        {"value": ["no such tag", 1]},
        {"value": []},
        {"value": [1]},
        {"value": ["int", "x"]},
        {"value": ["name", "builtins.exec"]},
        {"value": ["items", [1]]},
        {"values": [[1, ["name", "builtins.complex"], None, ["a", "b"]]]},
        {"values": [[1, ["name", "decimal.Decimal"], None, ["x"]]]},
        {"values": [[1, ["name", "fractions.Fraction"], None, [1, 0]]]},
        {"values": [[1, ["name", "builtins.list"], None, []]]},
        {"values": [["1", ["name", "builtins.tuple"], None, []]]},
        {"values": [[0, ["name", "builtins.tuple"], None, []]]},
        {"contents": [[1, ["name", "builtins.tuple"], None, []]]},
        {"contents": [[1, ["name", "builtins.dict"], None, [1, 2, 3]]]},
        {"contents": [[1, ["name", "builtins.set"], None, [[1]]]]},
        {"contents": [[1]]},
    ],
)
def test_an_invalid_message_is_refused(forged: dict[str, Any]) -> None:
    end = _End(0)
    with pytest.raises((ValueError, TypeError, LookupError, ArithmeticError)):
        _read(forged, end)


def test_values_too_deep_for_a_stack_are_refused() -> None:
    end, name = _End(0), ["name", "builtins.tuple"]
    records = [[2 * at + 1, name, None, [[2 * at - 1] if at else 0]] for at in range(30_000)]
    with pytest.raises(ValueError, match="deep"):
        end.read({"values": records})


def _read(message: dict[str, Any], end: Wire) -> Any:
    end.read(message)
    return end.value(message["value"])


def test_messages_that_are_too_long_or_cut_are_refused() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="longer than"):
        receive(reading)
    send(writing, {"a": 1})
    assert receive(reading) == {"a": 1}
    os.write(writing, b"\x00\x00\x00\x09{}")
    os.close(writing)
    with pytest.raises(EOFError):
        receive(reading)
    os.close(reading)

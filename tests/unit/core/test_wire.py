"""What passes between examiner and candidate."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, deque
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfleet.rewards.sandbox.inside.messages import receive, send
from zfleet.rewards.sandbox.inside.wire import pack, unpack

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


def _refuse(value: object) -> int:
    raise AssertionError(value)


def _none(number: int) -> object:
    raise AssertionError(number)


@given(VALUES)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    through = json.loads(json.dumps(pack(value, _refuse)))
    back = unpack(through, _none)
    assert back == value
    assert type(back) is type(value)


def test_numbers_beyond_json_come_back() -> None:
    huge = -(7**20_000)
    assert unpack(json.loads(json.dumps(pack(huge, _refuse))), _none) == huge
    assert math.isnan(unpack(json.loads(json.dumps(pack(math.nan, _refuse))), _none))
    assert unpack(pack(Decimal("1.50"), _refuse), _none) == Decimal("1.50")
    assert unpack(pack(Fraction(1, 3), _refuse), _none) == Fraction(1, 3)


def test_subclasses_travel_as_what_they_are_made_of() -> None:
    class Same(list[int]):
        def __eq__(self, other: object) -> bool:
            return True

    assert unpack(pack(Same([1]), _refuse), _none) != [2]
    assert unpack(pack(Counter("aab"), _refuse), _none) == {"a": 2, "b": 1}


def test_objects_travel_as_numbers() -> None:
    kept: list[object] = []

    def keep(value: object) -> int:
        kept.append(value)
        return len(kept) - 1

    thing = object()
    assert unpack(pack([thing], keep), kept.__getitem__) == [thing]


@pytest.mark.parametrize(
    "forged",
    [
        {},
        ["no such tag"],
        [],
        ["object", "0"],
        ["dict", [1]],
        ["dict", [["list"], 1]],
        ["int", "x"],
        ["set", ["list"]],
        ["complex", "a", "b"],
        ["decimal.Decimal", "x"],
        ["fractions.Fraction", "1/0"],
        [["list"]],
    ],
)
def test_what_is_no_packed_value_is_refused(forged: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of several kinds, all of them ValueErrors
        unpack(forged, _none)


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

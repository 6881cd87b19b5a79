"""The tree of errors: every error survives pickling, so that it can reach another process."""

from __future__ import annotations

import inspect
import pickle

import pytest

from zfleet import errors
from zfleet.errors import ZfleetError

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ZfleetError)]


def test_every_error_belongs_to_the_tree() -> None:
    raisable = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BaseException)}
    assert raisable == set(TREE)
    assert len(TREE) > 20


@pytest.mark.parametrize("kind", TREE)
def test_an_error_round_trips_through_pickle(kind: type[ZfleetError]) -> None:
    error = kind("field is 3", "make it 4")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert (again.message, again.remedy) == ("field is 3", "make it 4")
    assert str(again) == "field is 3 (make it 4)"

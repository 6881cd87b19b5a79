"""What a request's ``model`` means."""

import pytest

from zfleet.errors import ExpertNotFound
from zfleet_serve.adaptive.names import ModelName, parse_model


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("lab", ModelName()),
        ("lab:auto", ModelName(auto=True)),
        ("lab:math", ModelName(expert="math")),
        ("lab:math/3", ModelName(expert="math/3")),
        ("lab:math@challenger", ModelName(expert="math@challenger")),
        ("lab:math.v2-x", ModelName(expert="math.v2-x")),
    ],
)
def test_names(model: str, expected: ModelName) -> None:
    assert parse_model(model, "lab") == expected


@pytest.mark.parametrize(
    "model",
    ["", "other", "other:math", "lab:", "lab:math:sort", "lab:math/0", "lab:math/x", "lab:../up", "lab:a@b@c", "Lab"],
)
def test_what_names_nothing(model: str) -> None:
    with pytest.raises(ExpertNotFound, match=r"the base served here is 'lab'|names no expert"):
        parse_model(model, "lab")

"""The memory of a search's actor follows its largest round, whichever that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zfleet.config.load import parse_spec
from zfleet.config.search import SearchSpec
from zfleet.config.specs import BaseSpec
from zfleet.memory.worker import TaskSize, search_table, traced_base


@pytest.mark.parametrize(
    ("keys", "answers"),
    [
        ({"population": 40}, 200),
        ({"experts": [f"e{number}" for number in range(60)]}, 310),
        # Four finalists, the method's centre, the base and the best single expert.
        ({"selection": 50}, 200),
        ({"test_samples": 90}, 180),
        # On all of the test split, as far as it is known.
        ({"method": "reference"}, 800),
        ({"test_samples": 90, "engine": {"kind": "torch", "slots": 100}}, 100),
    ],
    ids=["population", "experts", "finals", "test", "paper", "slots"],
)
def test_an_actor_has_room_for_the_largest_round(keys: dict[str, Any], answers: int, tiny_folder: Path) -> None:
    def peak(**values: Any) -> int:
        spec: dict[str, Any] = {
            "experts": ["a"],
            "task": {"lab": "sort"},
            "name": "mix",
            "base": {"model": str(tiny_folder)},
        }
        spec |= {"shots": 10, "selection": 1, "engine": {"kind": "torch", "slots": 1000}}
        if values.get("method") != "reference":
            spec |= {"test_samples": 1, "population": 8}
        else:
            values["population"] = 10
            del spec["selection"]
        job = parse_spec(spec | values, SearchSpec)
        return search_table(job, traced_base(tiny_folder, BaseSpec()), TaskSize(20, 4, 400)).peak

    # A population of so many candidates on ten shots, in two chunks, takes as many slots.
    assert peak(**keys) == peak(population=answers // 5)
    assert peak(population=answers // 5) != peak(population=answers // 5 - 10)

"""What a base is called when nobody says so."""

from __future__ import annotations

import pytest

from zfleet.models.base import base_name, base_slug
from zfleet_registry.references import check_slug


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/models/llama-3/", "llama-3"),
        ("meta/Llama 3 (8B)", "Llama-3-8B"),
        ("/models/_private_", "private"),
        ("/models/...", "base"),
        ("/models/" + "x" * 300, "x" * 60),
    ],
)
def test_every_folder_gives_a_name_that_the_registry_takes(source: str, name: str) -> None:
    assert base_name(source) == name
    check_slug(base_slug(base_name(source), "0123456789abcdef"))

"""``zfleet experts``: which version a bare name means."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zfleet.errors import ExpertNotFound, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_cli.commands.experts import _find
from zfleet_registry import ExpertRegistry, Provenance


@pytest.fixture
def filled(registry: ExpertRegistry, make_z: Callable[..., ZVector]) -> ExpertRegistry:
    z = make_z(1)
    registry.register("math", z, Provenance.of(z), base_name="one")
    return registry


def test_a_bare_name_needs_no_base_where_one_can_be_meant(
    filled: ExpertRegistry, make_z: Callable[..., ZVector]
) -> None:
    assert _find(filled, "math/1", None).qualified.startswith("one-")
    with pytest.raises(ExpertNotFound, match="mathe"):
        _find(filled, "mathe", None)
    z = make_z(2)
    filled.register("math", z, Provenance.of(z), base_name="two")
    with pytest.raises(RegistryError, match="does not say of which base"):
        _find(filled, "math", None)

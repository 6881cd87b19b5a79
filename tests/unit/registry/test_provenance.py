"""The registry returns a provenance exactly, with parts of any length."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zfleet.errors import RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, Parent, Provenance

MakeZ = Callable[..., ZVector]


def test_a_version_has_the_provenance_it_was_registered_with(registry: ExpertRegistry, make_z: MakeZ) -> None:
    z = make_z()
    spec = json.dumps({"steps": list(range(3000)), "note": "naïve ✓\n" * 50})
    provenance = Provenance.of(
        z,
        task="add",
        data_digest="d" * 64,
        spec=spec,
        code_version="0.1.0+abc",
        metrics={"reward": 0.1 + 0.2, "tiny": 1e-300},
    )
    version = registry.register("math", z, provenance, base_name="lab")
    assert len(spec) > 10_000
    resolved = registry.resolve("math/1", "lab-1a2b3c4d")
    assert resolved == version
    assert resolved.provenance == provenance
    assert resolved.z_digest == z.digest
    assert (resolved.name, resolved.base_slug, resolved.reference) == ("math", "lab-1a2b3c4d", "math/1")
    assert resolved.qualified == "lab-1a2b3c4d.math/1"
    assert datetime.now(UTC) - resolved.created < timedelta(minutes=5)
    assert registry.list() == [resolved]


def test_a_mixture_names_its_parents(registry: ExpertRegistry, make_z: MakeZ) -> None:
    z = make_z()
    parents = (
        Parent("math/3", "a" * 64, 1 / 3),
        Parent("code/1", "b" * 64, (0.1, 0.7)),
        Parent("logic/2", "c" * 64, {"q_proj": 0.1, "up_proj": 1 / 3}),
    )
    provenance = Provenance.of(z, kind="mixture", parents=parents)
    assert registry.register("both", z, provenance, base_name="lab").provenance.parents == parents


def test_a_nan_metric_stays_nan() -> None:
    provenance = Provenance("b", "f", "mlp", "z", metrics={"loss": math.nan})
    assert math.isnan(Provenance.from_strings(provenance.to_strings()).metrics["loss"])


@pytest.mark.parametrize("field", ["base", "factors", "targets", "z_digest"])
def test_the_provenance_of_another_z_is_refused(field: str, registry: ExpertRegistry, make_z: MakeZ) -> None:
    z = make_z()
    changes: dict[str, Any] = {field: "other"}
    with pytest.raises(RegistryError, match=f"provenance has {field} 'other'"):
        registry.register("math", z, replace(Provenance.of(z), **changes), base_name="lab")
    assert registry.list() == []


def test_kind_and_parents_must_agree(make_z: MakeZ) -> None:
    z = make_z()
    with pytest.raises(RegistryError, match="has 0 parents"):
        Provenance.of(z, kind="mixture").check(z)
    start = Parent("math/1", "a", 1.0)
    Provenance.of(z, parents=(start,)).check(z)
    with pytest.raises(RegistryError, match="has 2 parents"):
        Provenance.of(z, parents=(start, start)).check(z)


def test_a_transfer_names_the_base_that_its_values_were_trained_on(registry: ExpertRegistry, make_z: MakeZ) -> None:
    z = make_z()
    parents = (Parent("lab-1a2b3c4d.math/1", "a" * 64, 1.0),)
    with pytest.raises(RegistryError, match="has 0 parents"):
        Provenance.of(z, kind="transfer", source_base="other").check(z)
    with pytest.raises(RegistryError, match="kind 'transfer' has source_base ''"):
        Provenance.of(z, kind="transfer", parents=parents).check(z)
    with pytest.raises(RegistryError, match="kind 'expert' has source_base 'other'"):
        Provenance.of(z, source_base="other").check(z)
    provenance = Provenance.of(z, kind="transfer", parents=parents, source_base="other")
    version = registry.register("math-from-other", z, provenance, base_name="lab")
    assert version.provenance == provenance
    assert registry.find("math-from-other", z) == version
    assert registry.find("math", z) is None
    assert registry.find("math-from-other", make_z(1)) is None
    again = registry.register("math-from-other", z, provenance, base_name="lab")
    assert registry.find("math-from-other", z) == again, "the newest"


def test_tags_that_were_edited_are_reported(registry: ExpertRegistry, make_z: MakeZ) -> None:
    z = make_z()
    registry.register("math", z, Provenance.of(z), base_name="lab")
    registry._client.set_model_version_tag("lab-1a2b3c4d.math", "1", "zfleet.metrics", "{")
    with pytest.raises(RegistryError, match=r"version 1 of lab-1a2b3c4d\.math has no complete zfleet tags"):
        registry.resolve("math", "lab-1a2b3c4d")

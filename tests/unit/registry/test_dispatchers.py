"""Dispatchers are versions as experts are: with aliases and provenance, verified on every load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zfleet.adapt.document import DispatcherDocument
from zfleet.adapt.examples import Examples
from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import CorruptArtifact, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance

SLUG = "lab-1a2b3c4d"
MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]


def stored(z: ZVector, temperature: float = 1.0) -> StoredDispatcher:
    """Make a dispatcher that routes to one expert."""
    states = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    document = DispatcherDocument.model_validate(
        {
            "base": z.base,
            "factors": z.factors,
            "experts": {"math/1": z.digest},
            "routes": {"add": {"math/1": 1.0}},
            "steps": [{"kind": "nearest", "compares": True, "calibration": {"temperature": temperature}}],
            "example_labels": ("add",),
        }
    )
    return StoredDispatcher(document, Examples.from_states({"add": states}))


def provenance(dispatcher: StoredDispatcher) -> Provenance:
    return Provenance.of_dispatcher(dispatcher, spec="{}", code_version="1", metrics={"ece": 0.02})


@pytest.fixture
def router(registry: ExpertRegistry, put: Put, make_z: MakeZ) -> ExpertVersion:
    put("math")
    dispatcher = stored(make_z())
    return registry.register("router", dispatcher, provenance(dispatcher), base_name="lab", alias="champion")


def test_a_dispatcher_is_found_and_loaded_as_it_was(
    registry: ExpertRegistry, router: ExpertVersion, make_z: MakeZ
) -> None:
    found = registry.resolve("router@champion", SLUG)
    assert found == router
    assert (found.reference, found.z_digest, found.is_dispatcher) == ("router/1", "", True)
    assert found.provenance == provenance(stored(make_z()))
    assert [parent.reference for parent in found.provenance.parents] == ["math/1"]
    loaded = registry.load_dispatcher(found)
    assert loaded.digest == stored(make_z()).digest
    assert loaded.document == stored(make_z()).document


def test_versions_and_aliases_are_those_of_experts(
    registry: ExpertRegistry, router: ExpertVersion, make_z: MakeZ
) -> None:
    other = stored(make_z(), 2.0)
    second = registry.register("router", other, provenance(other), base_name="lab")
    assert second.version == 2
    assert registry.resolve("router", SLUG) == router, "the champion stays"
    registry.set_alias(second, "champion")
    assert registry.load_dispatcher(registry.resolve("router", SLUG)).digest == other.digest
    assert [version.reference for version in registry.list(SLUG)] == ["math/1", "router/1", "router/2"]


def test_damage_is_named(registry: ExpertRegistry, router: ExpertVersion, root: Path) -> None:
    (file,) = root.rglob(router.artifact)
    whole = file.read_bytes()
    assert file.name == "dispatcher.safetensors"
    for data in (whole[:-1], b"", whole[:-5] + b"\xff" + whole[-4:]):
        file.write_bytes(data)
        with pytest.raises(CorruptArtifact, match=r"dispatcher\.safetensors of lab-1a2b3c4d\.router/1 was changed"):
            registry.load_dispatcher(router)
    file.unlink()
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        registry.load_dispatcher(router)


@pytest.mark.parametrize("field", ["dispatcher_digest", "base", "factors"])
def test_tags_that_contradict_the_file_are_refused(field: str, registry: ExpertRegistry, router: ExpertVersion) -> None:
    changes: dict[str, Any] = {field: "other"}
    edited = replace(router, provenance=replace(router.provenance, **changes))
    with pytest.raises(CorruptArtifact, match=f"has {field} .*the version's tag says 'other'"):
        registry.load_dispatcher(edited)


def test_an_expert_and_a_dispatcher_are_not_taken_for_each_other(
    registry: ExpertRegistry, router: ExpertVersion, make_z: MakeZ, put: Put
) -> None:
    with pytest.raises(RegistryError, match="router/1 is a dispatcher, which has no z"):
        registry.load(router)
    with pytest.raises(RegistryError, match="math/1 is an expert, not a dispatcher"):
        registry.load_dispatcher(registry.resolve("math", SLUG))
    with pytest.raises(RegistryError, match="'math' is an expert, and cannot have a dispatcher"):
        registry.register("math", stored(make_z()), provenance(stored(make_z())), base_name="lab")
    with pytest.raises(RegistryError, match="'router' is a dispatcher, and cannot have an expert"):
        put("router")
    assert len(registry.list(SLUG)) == 2


def test_the_provenance_of_another_dispatcher_is_refused(registry: ExpertRegistry, make_z: MakeZ) -> None:
    with pytest.raises(RegistryError, match="provenance has dispatcher_digest"):
        registry.register("router", stored(make_z()), provenance(stored(make_z(), 2.0)), base_name="lab")
    orphan = replace(provenance(stored(make_z())), parents=())
    with pytest.raises(RegistryError, match="kind 'dispatcher' has 0 parents"):
        registry.register("router", stored(make_z()), orphan, base_name="lab")

"""Versions and aliases: the versions that references mean, and the errors if there are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zfleet.errors import ExpertNotFound, RegistryError, RegistryUnreachable
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance, catalog, files

SLUG = "lab-1a2b3c4d"
MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]


def test_references_mean_versions(registry: ExpertRegistry, put: Put) -> None:
    first, second, third = put(seed=1), put(seed=2), put(seed=3)
    assert [version.version for version in (first, second, third)] == [1, 2, 3]
    assert registry.resolve("math", SLUG) == third
    assert registry.resolve("math/1", SLUG) == first
    champion = registry.set_alias(second, "champion")
    assert champion.aliases == ("champion",)
    for reference in ("math", "math@champion", f"{SLUG}.math", f"{SLUG}.math@champion", "math/2"):
        assert registry.resolve(reference, SLUG) == champion
    assert registry.resolve(f"{SLUG}.math/3") == third


def test_an_alias_moves_and_is_dropped(registry: ExpertRegistry, put: Put) -> None:
    first, second = put(seed=1, alias="champion"), put(seed=2)
    moved = registry.set_alias(second, "champion")
    assert registry.resolve("math/1", SLUG).aliases == ()
    with pytest.raises(ExpertNotFound, match="has no alias 'champion' on version 1"):
        registry.drop_alias(first, "champion")
    assert registry.drop_alias(moved, "champion").aliases == ()
    with pytest.raises(ExpertNotFound, match="has no alias 'champion'"):
        registry.resolve("math@champion", SLUG)


def test_errors_name_what_exists(registry: ExpertRegistry, put: Put) -> None:
    put("math", alias="champion")
    put("code")
    put("mathematics", base_name="other")
    with pytest.raises(ExpertNotFound, match=r"no expert 'maht'.*did you mean math\?"):
        registry.resolve("maht", SLUG)
    with pytest.raises(ExpertNotFound, match=r"experts of lab-1a2b3c4d: code, math"):
        registry.resolve("zzz", SLUG)
    with pytest.raises(ExpertNotFound, match="exists for the base other-1a2b3c4d"):
        registry.resolve("mathematics", SLUG)
    with pytest.raises(ExpertNotFound, match=r"no version 9 .versions: 1; aliases: champion .version 1."):
        registry.resolve("math/9", SLUG)
    with pytest.raises(RegistryError, match="names no base"):
        registry.resolve("math")


def test_list_reads_every_page(registry: ExpertRegistry, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "PAGE", 2)
    for seed, name in enumerate(["b", "a", "c", "a", "a"]):
        put(name, seed=seed, alias="champion")
    # '_' is a wildcard in the database, but x_y must not match xzy.
    put("a", base_name="x_y")
    put("a", base_name="xzy")
    assert [version.reference for version in registry.list(SLUG)] == ["a/1", "a/2", "a/3", "b/1", "c/1"]
    assert [version.aliases for version in registry.list(SLUG)][:3] == [(), (), ("champion",)]
    assert [version.base_slug for version in registry.list("x_y-1a2b3c4d")] == ["x_y-1a2b3c4d"]
    assert len(registry.list()) == 7


def test_models_of_other_programs_are_ignored(registry: ExpertRegistry, put: Put) -> None:
    registry._client.create_registered_model("theirs")
    registry._client.create_model_version("theirs", "s3://bucket/model")
    put()
    assert [version.qualified for version in registry.list()] == [f"{SLUG}.math/1"]


def test_a_failed_upload_leaves_no_version(registry: ExpertRegistry, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", fail)
        with pytest.raises(RegistryError, match=r"z\.safetensors cannot be written: No space left on device"):
            put()
    assert registry.list() == []
    assert put().version == 1


def test_a_name_without_versions_is_not_found(registry: ExpertRegistry) -> None:
    registry._client.create_registered_model(f"{SLUG}.math")
    with pytest.raises(ExpertNotFound, match="has no version"):
        registry.resolve("math", SLUG)


def test_unusable_names_are_refused_before_anything_is_stored(registry: ExpertRegistry, make_z: MakeZ) -> None:
    z = make_z()
    for name, base_name, alias in [("a/b", "lab", None), ("math", "l b", None), ("math", "lab", "latest")]:
        with pytest.raises(RegistryError, match=r"cannot be|reserved") as caught:
            registry.register(name, z, Provenance.of(z), base_name=base_name, alias=alias)
        assert not isinstance(caught.value, RegistryUnreachable)
    assert registry.list() == []

"""Every load is verified: a damaged file is named and never served."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from zfleet.errors import CorruptArtifact
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance
from zfleet_registry.z_file import read_origin

MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]


def _file(root: Path, version: ExpertVersion) -> Path:
    (file,) = root.rglob(version.artifact)
    return file


def test_load_gives_the_same_z(registry: ExpertRegistry, put: Put, make_z: MakeZ) -> None:
    z = registry.load(put(seed=1))
    assert z.digest == make_z(1).digest
    for name, value in make_z(1).values.items():
        assert torch.equal(z.values[name], value)


def test_the_current_directory_does_not_matter(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_z: MakeZ
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "my runs").mkdir()
    shutil.copy(database, tmp_path / "my runs")
    monkeypatch.chdir(tmp_path)
    registry = ExpertRegistry(root=Path("my runs"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    version = registry.register("math", make_z(), Provenance.of(make_z()), base_name="lab")
    monkeypatch.chdir(tmp_path)
    assert registry.load(version).digest == make_z().digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "my runs"]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_damage_is_named(registry: ExpertRegistry, put: Put, root: Path) -> None:
    version = put(seed=1)
    file = _file(root, version)
    whole = file.read_bytes()
    for position in (0, 9, len(whole) // 2, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(CorruptArtifact, match="was changed") as caught:
            registry.load(version)
        assert "lab-1a2b3c4d.math/1" in str(caught.value)
        assert version.artifact in str(caught.value)
        assert "register the expert again" in caught.value.remedy
    for length in (0, 5, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CorruptArtifact, match=f"its {length} bytes"):
            registry.load(version)
    file.write_bytes(whole)
    registry.load(version)
    file.unlink()
    with pytest.raises(CorruptArtifact, match=r"z\.safetensors of lab-1a2b3c4d\.math/1 cannot be read"):
        registry.load(version)


def test_another_versions_file_is_refused(registry: ExpertRegistry, put: Put, root: Path) -> None:
    first, second = put(seed=1), put(seed=2)
    shutil.copy(_file(root, second), _file(root, first))
    with pytest.raises(CorruptArtifact, match="was changed"):
        registry.load(first)
    assert registry.load(second).digest == second.z_digest


@pytest.mark.parametrize("field", ["z_digest", "base", "factors", "targets"])
def test_tags_that_contradict_the_file_are_refused(field: str, registry: ExpertRegistry, put: Put) -> None:
    version = put()
    changes: dict[str, Any] = {field: "other"}
    edited = replace(version, provenance=replace(version.provenance, **changes))
    with pytest.raises(CorruptArtifact, match=f"has {field} .*the version's tag says 'other'"):
        registry.load(edited)


def test_a_file_that_was_registered_damaged_is_refused(registry: ExpertRegistry, put: Put, root: Path) -> None:
    version = put()
    _file(root, version).write_bytes(b"no z")
    forged = replace(version, artifact_sha256=hashlib.sha256(b"no z").hexdigest())
    with pytest.raises(CorruptArtifact, match="no complete safetensors file"):
        registry.load(forged)


def test_extra_tensors_are_refused(registry: ExpertRegistry, put: Put, root: Path) -> None:
    version = put()
    file = _file(root, version)
    data = file.read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    more = safetensors.torch.save({**safetensors.torch.load(data), "extra": torch.ones(2)}, metadata)
    file.write_bytes(more)
    forged = replace(version, artifact_sha256=hashlib.sha256(more).hexdigest())
    with pytest.raises(CorruptArtifact, match="was changed: its values have digest"):
        registry.load(forged)


def test_ten_gigabytes_are_refused_before_they_are_read(registry: ExpertRegistry, put: Put, root: Path) -> None:
    version = put()
    file = _file(root, version)
    with file.open("r+b") as opened:
        opened.truncate(10 * 2**30)  # sparse: it takes no room, and reading it would take all memory
    with pytest.raises(CorruptArtifact, match="has 10,737,418,240 bytes, more than 1,073,741,824"):
        registry.load(version)
    with pytest.raises(CorruptArtifact, match="has 10,737,418,240 bytes, more than 1,073,741,824"):
        read_origin(file)


def test_a_run_may_hold_several_experts(registry: ExpertRegistry, make_z: MakeZ) -> None:
    run = registry.start_run("cohort", experiment="lab")
    versions = [
        registry.register(name, make_z(seed), Provenance.of(make_z(seed)), base_name="lab", run_id=run)
        for seed, name in enumerate(["math", "math", "code"])
    ]
    assert {version.run_id for version in versions} == {run}
    assert [registry.load(version).digest for version in versions] == [make_z(seed).digest for seed in range(3)]

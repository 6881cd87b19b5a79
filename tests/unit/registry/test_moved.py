"""A registry that was moved or copied works in its new place, and changes nothing in the old one."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from zfleet.errors import CorruptArtifact, RegistryError, RegistryUnreachable
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance, moved

MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]
SLUG = "lab-1a2b3c4d"


def digests(folder: Path) -> dict[str, str]:
    """Return {path: sha256} of all files under a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def places(root: Path) -> Iterator[str]:
    """Yield every absolute path in the database, except that of MLflow's default experiment, which has no runs."""
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("model_versions", "source"),
            ("model_versions", "storage_location"),
        ):
            for (place,) in database.execute(f"SELECT {column} FROM {table}"):
                if str(place).startswith("/") and not str(place).endswith("/mlruns/0"):
                    yield str(place)


def use(root: Path, make_z: MakeZ, run: str) -> None:
    """Use a registry with ``math/1`` as jobs and services do."""
    version = ExpertRegistry(root=root, reading=True).resolve("math", SLUG)
    assert ExpertRegistry(root=root, reading=True).load(version).digest == make_z(1).digest
    registry = ExpertRegistry(root=root)
    assert registry.load(registry.resolve("math/1", SLUG)).digest == make_z(1).digest
    # Register in an old run, and in a new one.
    assert registry.reopen_run(run)
    for owner in (run, None):
        added = registry.register("math", make_z(2), Provenance.of(make_z(2)), base_name="lab", run_id=owner)
        assert registry.load(added).digest == make_z(2).digest
        assert len(list(root.rglob(added.artifact))) == 1


@pytest.mark.parametrize("by_uri", [False, True])
@pytest.mark.parametrize("copied", [False, True], ids=["moved", "copied"])
def test_a_moved_or_copied_registry_works_in_its_new_place(
    copied: bool, by_uri: bool, root: Path, make_z: MakeZ, tmp_path: Path
) -> None:
    registry = ExpertRegistry(f"sqlite:///{root}/mlflow.db") if by_uri else ExpertRegistry(root=root)
    run = registry.start_run("cohort", experiment="lab")
    for owner in (run, None):
        registry.register("math", make_z(1), Provenance.of(make_z(1)), base_name="lab", run_id=owner)
    new = tmp_path / "elsewhere" / "my registry"
    new.parent.mkdir()
    if copied:
        shutil.copytree(root, new)
    else:
        root.rename(new)
    before = digests(root)
    use(new, make_z, run)
    assert digests(root) == before
    assert root.exists() == copied
    assert {place for place in places(new) if not place.startswith(f"{new}/artifacts")} == set()
    # The original, or the registry moved back, works too.
    if not copied:
        new.rename(root)
    original = ExpertRegistry(root=root)
    assert original.load(original.resolve("math/1", SLUG)).digest == make_z(1).digest
    assert {place for place in places(root) if not place.startswith(f"{root}/artifacts")} == set()


def test_artifacts_that_were_not_moved_are_read_from_their_old_place(root: Path, make_z: MakeZ, tmp_path: Path) -> None:
    """The artifacts of a registry may be elsewhere: earlier versions did not store them beside a sqlite URI's file."""
    registry = ExpertRegistry(root=root)
    version = registry.register("math", make_z(1), Provenance.of(make_z(1)), base_name="lab")
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(root / "mlflow.db", lone)
    before = digests(root)
    for reading in (True, False):
        alone = ExpertRegistry(root=lone, reading=reading)
        assert alone.load(alone.resolve("math", SLUG)).digest == make_z(1).digest
    assert digests(root) == before
    (file,) = root.rglob(version.artifact)
    file.unlink()
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        alone.load(version)


def test_links_to_a_registry_lead_to_the_same_artifacts(root: Path, make_z: MakeZ, tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to(root)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "mlflow.db").symlink_to(root / "mlflow.db")
    roots = (tmp_path / "folder", tmp_path / "linked", root)
    for seed, used in enumerate(roots):
        ExpertRegistry(root=used).register("math", make_z(seed), Provenance.of(make_z(seed)), base_name="lab")
    for used in roots:
        registry = ExpertRegistry(root=used)
        assert [registry.load(version).digest for version in registry.list()] == [make_z(n).digest for n in range(3)]
    assert {place for place in places(root) if not place.startswith(f"{root}/artifacts")} == set()


def test_an_old_place_without_permission(root: Path, make_z: MakeZ, tmp_path: Path) -> None:
    """Copies of a colleague's project name such places. The error is simulated, because the tests may run as root."""
    ExpertRegistry(root=root).register("math", make_z(1), Provenance.of(make_z(1)), base_name="lab")
    copy = tmp_path / "mine"
    shutil.copytree(root, copy)
    with closing(sqlite3.connect(copy / "mlflow.db")) as database:
        # A name that is too long for the system raises an error too.
        unreadable = f"/{'x' * 5000}/artifacts"
        database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id > 0", (unreadable,))
        database.commit()
    registry = ExpertRegistry(root=copy)
    assert registry.load(registry.resolve("math", SLUG)).digest == make_z(1).digest


def test_a_moved_registry_whose_records_cannot_be_changed_says_why(
    root: Path, make_z: MakeZ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ExpertRegistry(root=root).register("math", make_z(1), Provenance.of(make_z(1)), base_name="lab")
    new = root.rename(tmp_path / "new")
    monkeypatch.setattr(moved, "WAIT_SECONDS", 0.01)
    with closing(sqlite3.connect(new / "mlflow.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(RegistryUnreachable, match="locked by another process"):
            ExpertRegistry(root=new)
        database.execute("ROLLBACK")
    # Rename the file again, because MLflow checks the tables of each file only once in a process.
    new = new.rename(tmp_path / "newer")
    with closing(sqlite3.connect(new / "mlflow.db", isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = '0'")
        database.execute("ALTER TABLE model_versions DROP COLUMN storage_location")
    with pytest.raises(RegistryError, match="cannot be opened") as caught:
        ExpertRegistry(root=new)
    assert "mlflow db upgrade" in caught.value.remedy


@pytest.mark.parametrize("place", ["s3://bucket/artifacts", "/data/somebody/7", "mlflow-artifacts:/artifacts"])
def test_experiments_of_other_programs_keep_their_paths(place: str, root: Path) -> None:
    client = ExpertRegistry(root=root)._client
    experiment = client.create_experiment("other", artifact_location=place)
    run = client.create_run(experiment).info.artifact_uri
    reopened = ExpertRegistry(root=root)._client
    assert reopened.get_experiment(experiment).artifact_location == place
    assert reopened.search_runs([experiment])[0].info.artifact_uri == run

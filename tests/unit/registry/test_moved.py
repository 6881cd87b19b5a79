"""A registry that was moved or copied works where it is, and touches nothing where it was."""

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
    """{path: sha256} of all files under a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def places(root: Path) -> Iterator[str]:
    """Every absolute place that the database records, but that of MLflow's own first experiment, which has no runs."""
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
    """What jobs and services do in a registry that holds ``math/1``."""
    version = ExpertRegistry(root=root, reading=True).resolve("math", SLUG)
    assert ExpertRegistry(root=root, reading=True).load(version).digest == make_z(1).digest
    registry = ExpertRegistry(root=root)
    assert registry.load(registry.resolve("math/1", SLUG)).digest == make_z(1).digest
    # An experiment, and a run, of before, and new ones.
    assert registry.reopen_run(run)
    for owner in (run, None):
        added = registry.register("math", make_z(2), Provenance.of(make_z(2)), base_name="lab", run_id=owner)
        assert registry.load(added).digest == make_z(2).digest
        assert len(list(root.rglob(added.artifact))) == 1


@pytest.mark.parametrize("by_uri", [False, True])
@pytest.mark.parametrize("copied", [False, True], ids=["moved", "copied"])
def test_a_moved_or_copied_registry_works_where_it_is(
    copied: bool, by_uri: bool, root: Path, make_z: MakeZ, tmp_path: Path
) -> None:
    registry = ExpertRegistry(f"sqlite:///{root}/mlflow.db") if by_uri else ExpertRegistry(root=root)
    run = registry.start_run("cohort", experiment="lab")
    for owner in (run, None):
        registry.register("math", make_z(1), Provenance.of(make_z(1)), base_name="lab", run_id=owner)
    there = tmp_path / "elsewhere" / "my registry"
    there.parent.mkdir()
    if copied:
        shutil.copytree(root, there)
    else:
        root.rename(there)
    before = digests(root)
    use(there, make_z, run)
    assert digests(root) == before
    assert root.exists() == copied
    assert {place for place in places(there) if not place.startswith(f"{there}/artifacts")} == set()
    # And back.
    if not copied:
        there.rename(root)
    use_again = ExpertRegistry(root=root)
    assert use_again.load(use_again.resolve("math/1", SLUG)).digest == make_z(1).digest
    assert {place for place in places(root) if not place.startswith(f"{root}/artifacts")} == set()


def test_artifacts_that_did_not_come_along_are_read_where_they_are(root: Path, make_z: MakeZ, tmp_path: Path) -> None:
    """A registry whose artifacts lie elsewhere, as those of a sqlite URI did before they went beside the file."""
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


def test_an_old_place_that_nobody_may_look_into(root: Path, make_z: MakeZ, tmp_path: Path) -> None:
    """A copy of a colleague's project; rights cannot be taken away here: the tests may run as root."""
    ExpertRegistry(root=root).register("math", make_z(1), Provenance.of(make_z(1)), base_name="lab")
    there = tmp_path / "mine"
    shutil.copytree(root, there)
    with closing(sqlite3.connect(there / "mlflow.db")) as database:
        # A name too long for the system raises too, for whoever asks.
        away = f"/{'x' * 5000}/artifacts"
        database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id > 0", (away,))
        database.commit()
    registry = ExpertRegistry(root=there)
    assert registry.load(registry.resolve("math", SLUG)).digest == make_z(1).digest


def test_a_moved_registry_that_cannot_follow_says_why(
    root: Path, make_z: MakeZ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ExpertRegistry(root=root).register("math", make_z(1), Provenance.of(make_z(1)), base_name="lab")
    there = root.rename(tmp_path / "there")
    monkeypatch.setattr(moved, "WAIT_SECONDS", 0.01)
    with closing(sqlite3.connect(there / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RegistryUnreachable, match="locked by another process"):
            ExpertRegistry(root=there)
        other.execute("ROLLBACK")
    # MLflow looks at the tables of each file once in a process.
    there = there.rename(tmp_path / "on")
    with closing(sqlite3.connect(there / "mlflow.db", isolation_level=None)) as other:
        other.execute("UPDATE alembic_version SET version_num = '0'")
        other.execute("ALTER TABLE model_versions DROP COLUMN storage_location")
    with pytest.raises(RegistryError, match="cannot be opened") as caught:
        ExpertRegistry(root=there)
    assert "mlflow db upgrade" in caught.value.remedy


@pytest.mark.parametrize("place", ["s3://bucket/artifacts", "/data/somebody/7", "mlflow-artifacts:/artifacts"])
def test_experiments_of_others_stay_where_they_are(place: str, root: Path) -> None:
    client = ExpertRegistry(root=root)._client
    theirs = client.create_experiment("theirs", artifact_location=place)
    run = client.create_run(theirs).info.artifact_uri
    again = ExpertRegistry(root=root)._client
    assert again.get_experiment(theirs).artifact_location == place
    assert again.search_runs([theirs])[0].info.artifact_uri == run

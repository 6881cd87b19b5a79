"""A registry that was moved or copied works where it is, and touches nothing where it was."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from zfleet.errors import CorruptArtifact
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance

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


@pytest.mark.parametrize("place", ["s3://bucket/artifacts", "/data/somebody/7", "mlflow-artifacts:/artifacts"])
def test_experiments_of_others_stay_where_they_are(place: str, root: Path) -> None:
    client = ExpertRegistry(root=root)._client
    theirs = client.create_experiment("theirs", artifact_location=place)
    run = client.create_run(theirs).info.artifact_uri
    again = ExpertRegistry(root=root)._client
    assert again.get_experiment(theirs).artifact_location == place
    assert again.search_runs([theirs])[0].info.artifact_uri == run

"""A local registry reports that its file is missing, empty, damaged or locked, and no request creates a new one."""

from __future__ import annotations

import pickle
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from zfleet.errors import ExpertNotFound, RegistryError, RegistryUnreachable
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance, sqlite

MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]
SLUG = "lab-1a2b3c4d"


def check_refused(registry: ExpertRegistry, version: ExpertVersion, make_z: MakeZ, reason: str) -> None:
    """Check that every request, reading or writing, is refused for this reason."""
    requests: list[Callable[[], object]] = [
        lambda: registry.resolve("math", SLUG),
        registry.list,
        lambda: registry.load(version),
        lambda: registry.set_alias(version, "champion"),
        lambda: registry.register("math", make_z(), Provenance.of(make_z()), base_name="lab"),
        lambda: registry.start_run("train", experiment="lab"),
        lambda: registry.log_metrics(version.run_id, {"loss": 1.0}),
    ]
    for request in requests:
        with pytest.raises(RegistryUnreachable) as caught:
            request()
        assert caught.value.reason == reason
        assert reason in caught.value.message
        assert caught.value.remedy


def test_no_request_creates_a_missing_file(registry: ExpertRegistry, put: Put, make_z: MakeZ, root: Path) -> None:
    version = put(seed=1)
    shutil.copy(root / "mlflow.db", root / "backup.db")
    (root / "mlflow.db").unlink()
    (root / "mlflow.db.lock").touch()
    before = set(root.rglob("*"))
    check_refused(registry, version, make_z, "its file is missing")
    for reading in (True, False):
        with pytest.raises(RegistryUnreachable, match="its file is missing") as caught:
            ExpertRegistry(root=root, reading=reading)
        assert "move the artifacts beside it away" in caught.value.remedy
    assert set(root.rglob("*")) == before
    # The restored file is read, not the file that was open before.
    backup = ExpertRegistry(f"sqlite:///{root}/backup.db")
    backup.set_alias(backup.resolve("math/1", SLUG), "champion")
    (root / "backup.db").rename(root / "mlflow.db")
    assert registry.resolve("math@champion", SLUG).z_digest == version.z_digest
    assert registry.load(version).digest == version.z_digest


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "its file is not a registry"), (b"no " * 999, "its file is not a readable sqlite database")],
)
def test_a_file_that_is_not_a_registry_is_not_changed(
    data: bytes, reason: str, registry: ExpertRegistry, put: Put, make_z: MakeZ, root: Path
) -> None:
    version, file = put(seed=1), root / "mlflow.db"
    whole = file.read_bytes()
    file.write_bytes(data)
    check_refused(registry, version, make_z, reason)
    for reading in (True, False):
        with pytest.raises(RegistryUnreachable, match=reason):
            ExpertRegistry(root=root, reading=reading)
    assert file.read_bytes() == data
    file.write_bytes(whole)
    assert registry.load(registry.resolve("math", SLUG)).digest == version.z_digest


def test_a_locked_file_is_waited_for(
    registry: ExpertRegistry, put: Put, make_z: MakeZ, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = put(seed=1)
    reader = ExpertRegistry(root=root, reading=True)
    with closing(sqlite3.connect(root / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RegistryUnreachable) as caught:
            reader.resolve("math", SLUG)
        assert caught.value.reason == "its file is locked by another process"
        monkeypatch.setattr(sqlite, "READER_SECONDS", 0.01)
        with pytest.raises(RegistryUnreachable, match="locked by another process"):
            ExpertRegistry(root=root, reading=True)
    assert reader.resolve("math", SLUG) == registry.resolve("math", SLUG) == version


def test_two_registries_in_one_folder(tmp_path: Path, make_z: MakeZ) -> None:
    (tmp_path / "artifacts").mkdir()
    registries = [ExpertRegistry(f"sqlite:///{tmp_path}/{name}.db") for name in ("one", "two")]
    for seed, registry in enumerate(registries):
        registry.register("math", make_z(seed), Provenance.of(make_z(seed)), base_name="lab")
    for seed, registry in enumerate(registries):
        (version,) = registry.list()
        assert registry.load(version).digest == make_z(seed).digest
    (tmp_path / "two.db").unlink()
    with pytest.raises(RegistryUnreachable, match="its file is missing"):
        ExpertRegistry(f"sqlite:///{tmp_path}/two.db")


def test_a_database_of_another_program_is_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE alembic_version (version_num)")
    before = file.read_bytes()
    for reading in (True, False):
        with pytest.raises(RegistryUnreachable, match="its file is not a registry"):
            ExpertRegistry(f"sqlite:///{file}", reading=reading)
    assert file.read_bytes() == before


def test_a_folder_without_permission(registry: ExpertRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is simulated, because the tests may run as root."""

    def refuse(path: Path, **_: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(sqlite, "open_database", lambda *_: sqlite3.connect("file:/nowhere/at-all?mode=rw", uri=True))
    with pytest.raises(RegistryUnreachable) as caught:
        registry.list()
    assert caught.value.reason == "its file cannot be opened: unable to open database file"


def test_a_reader_creates_no_registry(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnreachable, match="its file is missing"):
        ExpertRegistry(root=tmp_path / "fresh", reading=True)
    assert not list(tmp_path.iterdir())


def test_a_reason_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(RegistryUnreachable("message", "remedy", "reason")))  # noqa: S301
    assert (error.message, error.remedy, error.reason) == ("message", "remedy", "reason")
    assert RegistryUnreachable("message").reason == "it does not answer"


@pytest.mark.parametrize(
    "reference",
    ["math/1234567890", "math/" + "9" * 20, "math/" + "9" * 5000, "m" * 300, "m" * 401, "m" * 400, "math/999999999"],
)
def test_a_reference_beyond_the_limits_is_not_found(registry: ExpertRegistry, put: Put, reference: str) -> None:
    put()
    with pytest.raises(ExpertNotFound):
        registry.resolve(reference, SLUG)


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(registry: ExpertRegistry) -> None:
    registry.check_experiments("search", "lab")
    registry.start_run("exam", experiment="search")
    registry.check_experiments("search", "lab")
    experiment = registry._client.get_experiment_by_name("search")
    assert experiment is not None
    registry._client.delete_experiment(experiment.experiment_id)
    for refuse in (
        lambda: registry.check_experiments("lab", "search"),
        lambda: registry.start_run("exam", experiment="search"),
    ):
        with pytest.raises(RegistryError, match=r"experiment 'search' of the registry sqlite:.* was deleted") as caught:
            refuse()
        command = f"MLFLOW_TRACKING_URI={registry.address} mlflow experiments restore"
        assert f"{command} --experiment-id {experiment.experiment_id}" in caught.value.remedy
    registry._client.restore_experiment(experiment.experiment_id)
    registry.check_experiments("search")

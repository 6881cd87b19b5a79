"""Users of MLflow's own server: who may read, write, promote and manage, and what is left when a right is missing.

A real server is started, because the rights are checked in it and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch

from zfleet.errors import AccessDenied, CorruptArtifact, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, Provenance
from zfleet_registry.log import Entry
from zfleet_registry.promotion import promote
from zfleet_registry.server.processes import free_port
from zfleet_registry.server.secrets import secret
from zfleet_registry.server.tracking import ADMIN, ADMIN_PASSWORD, tracking_server

SLUG, PASSWORD = "lab-1a2b3c4d", "correct horse battery"
As = Callable[[str], ExpertRegistry]


def a_z(seed: float) -> ZVector:
    values = {"model.layers.0.mlp.up_proj": torch.linspace(0.5, 1.5, 8) + seed}
    return ZVector(values, "1a2b3c4d" * 8, "f" * 64, "mlp")


def put(registry: ExpertRegistry, seed: float, alias: str | None = None) -> int:
    z = a_z(seed)
    return registry.register("math", z, Provenance.of(z), base_name="lab", alias=alias).version


def entries(registry: ExpertRegistry) -> list[str]:
    return [entry.action.what for entry in registry.log(SLUG, "math").entries() if isinstance(entry, Entry)]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder and the URL of a server with the users ann, bob, eve and an administrator."""
    folder, port = tmp_path_factory.mktemp("team"), free_port()
    database, artifacts = f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts")
    with tracking_server(folder, database, artifacts, "127.0.0.1", port, 1, {}):
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, auth=(ADMIN, secret(folder, ADMIN_PASSWORD)), trust_env=False) as admin:
            for name in ("ann", "bob", "eve"):
                body = {"username": name, "password": PASSWORD}
                admin.post("/api/2.0/mlflow/users/create", json=body).raise_for_status()
        yield folder, url


@pytest.fixture
def as_user(team: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> As:
    """Gives the registry as a user sees it. The process is that user until the next call."""
    folder, url = team
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))

    def give(name: str) -> ExpertRegistry:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        password = secret(folder, ADMIN_PASSWORD) if name == ADMIN else PASSWORD
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        return ExpertRegistry(url)

    return give


def test_rights_of_a_team(as_user: As, caplog: pytest.LogCaptureFixture) -> None:
    """One test, because each step is about what the steps before left."""
    caplog.set_level(logging.WARNING)
    ann = as_user("ann")
    assert put(ann, 1, alias="champion") == 1, "whoever registers the first version manages the expert"

    # Reading: every user.
    bob = as_user("bob")
    assert bob.load(bob.resolve("math", SLUG)).digest == a_z(1).digest
    assert [version.reference for version in bob.list()] == ["math/1"]
    assert entries(bob) == ["register", "set"]
    # Not writing: nothing is left.
    with pytest.raises(AccessDenied, match="user 'bob' may not write") as caught:
        put(bob, 2)
    assert caught.value.right == "write"
    assert "ask whoever manages the expert" in caught.value.remedy
    assert len(bob.list()) == 1
    with pytest.raises(AccessDenied, match="may not promote"):
        bob.set_alias(bob.resolve("math", SLUG), "canary")
    with pytest.raises(AccessDenied, match="may not manage"):
        bob.access(SLUG, "math").grant("bob", "promote")
    assert entries(bob) == ["register", "set"]

    # Writing: versions, and no aliases.
    as_user(ADMIN).access(SLUG, "math").grant("bob", "write")
    bob = as_user("bob")
    assert put(bob, 2) == 2
    assert bob.load(bob.resolve("math/2", SLUG)).digest == a_z(2).digest
    assert "is registered, but not in its log" in caplog.text
    with pytest.raises(AccessDenied, match="may not promote") as caught:
        promote(bob, bob.resolve("math/2", SLUG), "champion")
    assert "log~BASE.NAME" in caught.value.remedy
    with pytest.raises(AccessDenied):
        put(bob, 3, alias="champion")
    # A job goes on to its end, and says how others promote.
    caplog.clear()
    assert bob.offer(bob.resolve("math/2", SLUG), "champion").version == 2
    assert f"zfleet experts promote {SLUG}.math/2 --to champion" in caplog.text
    assert bob.resolve("math@champion", SLUG).version == 1
    assert entries(bob) == ["register", "set"]

    # Promoting: the log names who did it.
    as_user("ann").access(SLUG, "math").grant("eve", "promote")
    eve = as_user("eve")
    promote(eve, eve.resolve("math/2", SLUG), "champion", why="better")
    assert eve.resolve("math@champion", SLUG).version == 2
    newest = eve.log(SLUG, "math").newest()
    assert newest is not None
    assert newest.action.sentence == "eve promoted version 2 to champion: better"
    # MLflow removes aliases for managers alone; the log has the alias where it still is.
    eve.set_alias(eve.resolve("math/1", SLUG), "canary")
    with pytest.raises(AccessDenied, match="user 'eve' may not manage"):
        eve.drop_alias(eve.resolve("math/1", SLUG), "canary")
    assert entries(eve)[-2:] == ["drop", "rollback"]
    assert eve.aliases(SLUG, "math").mismatches() == []
    as_user("ann").access(SLUG, "math").grant("eve", "manage")
    as_user("eve").drop_alias(eve.resolve("math/1", SLUG), "canary")
    assert eve.aliases(SLUG, "math").mismatches() == []

    # Taken away.
    as_user("ann").access(SLUG, "math").revoke("eve")
    as_user("ann").access(SLUG, "math").revoke("eve")
    with pytest.raises(AccessDenied):
        put(as_user("eve"), 4)
    with pytest.raises(RegistryError, match="nobody"):
        as_user("ann").access(SLUG, "math").grant("nobody", "write")
    with pytest.raises(RegistryError, match=r"there is no expert lab-1a2b3c4d\.mth"):
        as_user("ann").access(SLUG, "mth").grant("bob", "write")

    # Moved past zfleet by someone who may write: MLflow allows it, and the log shows it.
    bob = as_user("bob")
    bob._client.set_registered_model_alias(f"{SLUG}.math", "champion", "3")
    assert str(bob.aliases(SLUG, "math").mismatches()[0]) == (
        "champion points at version 3, but the log has it at version 2"
    )
    with pytest.raises(RegistryError, match="champion"):
        promote(as_user("ann"), as_user("ann").resolve("math/1", SLUG), "champion")
    as_user("ann").aliases(SLUG, "math").repair("champion")
    assert as_user("bob").resolve("math@champion", SLUG).version == 2


def test_a_user_that_is_not_known(as_user: As) -> None:
    registry = as_user("mallory")
    for request in (registry.list, lambda: registry.start_run("train", experiment="lab")):
        with pytest.raises(AccessDenied, match=r"does not accept user 'mallory'") as caught:
            request()
        assert "MLFLOW_TRACKING_PASSWORD" in caught.value.remedy
        assert PASSWORD not in str(caught.value)


def test_user_and_password_from_mlflows_file(
    as_user: As, team: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_user("ann")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    file = tmp_path / ".mlflow" / "credentials"
    file.parent.mkdir()
    file.write_text(f"[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = {PASSWORD}\n")
    file.chmod(0o644)
    with pytest.raises(AccessDenied, match="others may read it") as caught:
        ExpertRegistry(team[1])
    assert caught.value.remedy == f"chmod 600 {file}"
    file.chmod(0o600)
    version = ExpertRegistry(team[1]).register("notes", a_z(9), Provenance.of(a_z(9)), base_name="lab")
    assert version.registration is not None
    assert version.registration.who == "ann"


def test_artifacts_that_the_server_cannot_store_or_no_longer_has(as_user: As, team: tuple[Path, str]) -> None:
    store, moved = team[0] / "artifacts", team[0] / "elsewhere"
    ann = as_user("ann")
    version = ann.register("poems", a_z(5), Provenance.of(a_z(5)), base_name="lab")
    store.rename(moved)
    with pytest.raises(CorruptArtifact, match=r"cannot be read from mlflow-artifacts:/.*") as caught:
        ann.load(version)
    assert "zfleet registry move OLD NEW" in caught.value.remedy
    # A file where the folder was: like a full disk, the server cannot write.
    store.write_text("")
    try:
        with pytest.raises(RegistryError, match=r"register lab-1a2b3c4d\.poems"):
            ann.register("poems", a_z(6), Provenance.of(a_z(6)), base_name="lab")
        assert [known.reference for known in ann.list() if known.name == "poems"] == ["poems/1"]
    finally:
        store.unlink()
        moved.rename(store)
    assert ann.load(version).digest == a_z(5).digest


def test_a_server_called_by_a_name_that_it_does_not_know(
    team: tuple[Path, str], as_user: As, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_user("ann")
    monkeypatch.setenv("http_proxy", team[1])
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(RegistryError, match=r"refuses its own name, registry\.example") as caught:
        ExpertRegistry("http://registry.example").list()
    assert "MLFLOW_SERVER_ALLOWED_HOSTS=registry.example" in caught.value.remedy

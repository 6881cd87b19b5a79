"""Every fault that a crash, a person or a disk leaves in a registry is found; and mended, or said to stay."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from zfleet.config.gate import GateSpec
from zfleet.errors import RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, ExpertVersion, Parent, Provenance, catalog, z_file
from zfleet_registry.bulk import FileOutcome, import_files
from zfleet_registry.connect import Connection
from zfleet_registry.fsck import check, check_registry
from zfleet_registry.log import Action
from zfleet_registry.log.store import log_model
from zfleet_registry.promotion import Traffic, protect, set_traffic

SLUG = "lab-1a2b3c4d"
EXPERT = f"{SLUG}.math"
MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SETTLE_SECONDS", 0.0)


def faults(registry: ExpertRegistry) -> list[tuple[str, str, str]]:
    return [(one.check, one.where, one.fault) for one in check_registry(registry._connection)]


def repair(registry: ExpertRegistry) -> list[str]:
    """Mend everything that was found; return what was done."""
    results = check_registry(registry._connection, repair=True)
    assert [one for one in results if not one.mended] == []
    assert faults(registry) == []
    return [one.then for one in results]


def test_a_registry_without_faults(registry: ExpertRegistry, put: Put) -> None:
    assert faults(registry) == []
    put(alias="champion")
    put("code", 1)
    assert faults(registry) == []
    assert repair(registry) == []


def test_damaged_artifacts_are_named_and_stay(registry: ExpertRegistry, put: Put, root: Path) -> None:
    files = [next(root.rglob(put(seed=seed).artifact)) for seed in range(4)]
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-3])
    files[2].write_bytes(files[2].read_bytes()[:-1] + b"\xff")
    with files[3].open("r+b") as file:
        file.truncate(10 * 2**30)
    found = check_registry(registry._connection, repair=True)
    assert [(one.check, one.where, one.mended) for one in found] == [
        ("artifact", f"{EXPERT}/{n}", False) for n in range(1, 5)
    ]
    assert [
        word in one.fault
        for word, one in zip(("no such file", "was changed", "was changed", "10,737,418,240"), found, strict=True)
    ] == [True] * 4
    assert all("register the expert again" in one.then for one in found)


def test_what_was_downloaded_before_hides_no_fault(
    registry: ExpertRegistry, put: Put, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Artifacts are downloaded, as from a tracking server, instead of read where they are."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Connection, "local_file", lambda *_: None)
    version = put()
    registry.load(version)
    assert faults(registry) == []
    next(root.rglob(version.artifact)).unlink()
    registry.load(version)
    ((check, where, what),) = faults(registry)
    assert (check, where) == ("artifact", version.qualified)
    assert "there is no such file" in what


def test_an_artifact_of_another_expert_or_base(registry: ExpertRegistry, put: Put) -> None:
    math, code = put("math", 1), put("code", 2)
    other = put("code", 3, base_name="other")
    for version, tags in (
        (code, {"artifact": math.artifact, "artifact_sha256": math.artifact_sha256, "z_digest": math.z_digest}),
        (other, {"base_slug": SLUG}),
    ):
        model = f"{version.base_slug}.code"
        for key, value in tags.items():
            catalog.tag_version(registry._client, model, 1, f"zfleet.{key}", value)
    found = faults(registry)
    assert ("record", f"{SLUG}.code/1") in [one[:2] for one in found], "the log has another digest"
    assert ("record", "other-1a2b3c4d.code/1", f"its tags say that it is of {SLUG}.code") in found
    assert ("artifact", f"{SLUG}.code/1") in [one[:2] for one in found]


def test_a_version_without_its_digest(registry: ExpertRegistry, put: Put, root: Path) -> None:
    version = put()
    key = "zfleet.artifact_sha256"
    registry._client.delete_model_version_tag(EXPERT, "1", key)
    assert faults(registry) == [("record", f"{EXPERT}/1", "it has no digest")]
    assert repair(registry) == [f"set it to {version.artifact_sha256[:12]}, as the log has it"]
    assert registry.load(registry.resolve("math", SLUG)).digest == version.z_digest
    # A log from before it had digests: the file must have the registered z.
    registry._client.delete_model_version_tag(EXPERT, "1", key)
    registry._client.delete_registered_model(log_model(EXPERT))
    assert "that of the file, which has the registered z" in repair(registry)[0]
    registry._client.delete_model_version_tag(EXPERT, "1", key)
    (file,) = root.rglob(version.artifact)
    file.write_bytes(file.read_bytes()[:-1])
    (stays,) = check_registry(registry._connection, repair=True)
    assert (stays.mended, "was changed" in stays.then) == (False, True)
    # Tags that were edited beyond that.
    registry._client.set_model_version_tag(EXPERT, "1", "zfleet.metrics", "{")
    registry._client.set_model_version_tag(EXPERT, "1", key, version.artifact_sha256)
    assert "has no complete zfleet tags" in faults(registry)[0][2]


def test_a_file_and_its_digest_that_were_both_replaced(
    registry: ExpertRegistry, put: Put, make_z: MakeZ, root: Path
) -> None:
    version = put()
    (file,) = root.rglob(version.artifact)
    whole = file.read_bytes()
    other = make_z(5).to_bytes()
    forged = hashlib.sha256(other).hexdigest()
    file.write_bytes(other)
    for key, value in (("artifact_sha256", forged), ("z_digest", make_z(5).digest)):
        registry._client.set_model_version_tag(EXPERT, "1", f"zfleet.{key}", value)
    assert registry.load(registry.resolve("math", SLUG)).digest == make_z(5).digest
    (found,) = check_registry(registry._connection, repair=True)
    assert found.fault == f"its digest is {forged[:12]}, and the log has {version.artifact_sha256[:12]}"
    assert not found.mended
    file.write_bytes(whole)
    registry._client.set_model_version_tag(EXPERT, "1", "zfleet.z_digest", version.z_digest)
    assert len(repair(registry)) == 1


def test_a_version_that_is_not_in_the_log(registry: ExpertRegistry, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zfleet_registry.registry.ExpertRegistry.log", killed)
        with pytest.raises(KeyboardInterrupt):
            put()
    assert faults(registry) == [("log", f"{EXPERT}/1", "the log has no entry of its registration")]
    assert repair(registry) == ["recorded it as entry 1"]
    entry = registry.log(SLUG, "math").newest()
    assert entry is not None
    assert (entry.action.what, entry.action.version) == ("register", 1)
    assert "recorded by fsck" in entry.action.why


def test_a_deleted_version_leaves_its_aliases_to_the_one_before(registry: ExpertRegistry, put: Put) -> None:
    for seed in range(3):
        put(seed=seed, alias="champion")
    put(seed=3, alias="canary")
    gate = GateSpec.model_validate({"tasks": ["a"], "alias": "canary"})
    protect(registry, registry.resolve("math/1", SLUG), gate)
    for number in ("2", "3", "4"):
        registry._client.delete_model_version(EXPERT, number)
    assert [one[0] for one in faults(registry)] == ["alias", "alias"]
    assert repair(registry) == [
        "dropped canary: version 4 does not exist any more",
        "rolled champion back to version 1: version 3 does not exist any more",
    ]
    assert registry.resolve("math@champion", SLUG).version == 1
    assert registry.aliases(SLUG, "math").present() == {"champion": 1}
    # The whole model, and what only its log is left of.
    registry._client.delete_registered_model(EXPERT)
    assert repair(registry) == ["dropped champion: version 1 does not exist any more"]


def test_an_alias_that_mlflow_has_at_nothing(registry: ExpertRegistry, put: Put, root: Path) -> None:
    put(alias="champion")
    put(seed=1)
    registry._client.set_registered_model_alias(EXPERT, "odd", "2")
    with sqlite3.connect(root / "mlflow.db") as database:
        database.execute("UPDATE registered_model_aliases SET version = 9")
    database.close()
    assert [one[2] for one in faults(registry)] == [
        "champion points at version 9, but the log has it at version 1",
        "odd points at version 9, which does not exist",
    ]
    assert repair(registry) == ["put champion back to version 1, where the log has it", "removed odd"]
    assert registry.aliases(SLUG, "math").present() == {"champion": 1}


def test_commands_that_were_cut_short(registry: ExpertRegistry, put: Put) -> None:
    put(alias="champion")
    put(seed=1, alias="canary")
    aliases = registry.aliases(SLUG, "math")
    set_traffic(aliases, Traffic({"champion": 90, "canary": 10}))
    registry._client.set_registered_model_tag(EXPERT, "zfleet.traffic", "{}")
    action = Action("set", EXPERT, "champion", 2)
    tags = {"zfleet.format": "zfleet-log/1", "zfleet.action": action.to_json()}
    catalog.create_version(registry._client, log_model(EXPERT), "zfleet-log:/x", tags, about="")
    assert faults(registry)[0] == ("log", f"{EXPERT}, entry 6", "the command ended before it sealed its entry")
    catalog.create_version(registry._client, log_model(EXPERT), "zfleet-log:/x", tags, about="")
    assert repair(registry) == [
        "sealed it",
        "put champion back to version 2, where the log has it",
        "stored it where services read it",
    ]
    registry._client.delete_model_version(EXPERT, "2")
    results = check_registry(registry._connection, repair=True)
    assert [(one.check, one.mended) for one in results] == [("alias", True), ("alias", True), ("traffic", False)]
    assert results[2].fault == "it names the alias canary, which does not exist"


def test_whoever_may_not_write_seals_nothing(registry: ExpertRegistry, put: Put, root: Path) -> None:
    put()
    registry._client.delete_model_version_tag(log_model(EXPERT), "1", "zfleet.seal")
    reader = ExpertRegistry(root=root, reading=True)
    (stays,) = check_registry(reader._connection, repair=True)
    assert (stays.check, stays.mended, "cannot be written" in stays.then) == ("log", False, True)
    assert repair(registry) == ["sealed it"]


def test_a_broken_chain_is_named_and_never_mended(registry: ExpertRegistry, put: Put) -> None:
    for seed in range(3):
        put(seed=seed)
    tag = registry._client.get_model_version(log_model(EXPERT), "2").tags["zfleet.action"]
    registry._client.set_model_version_tag(
        log_model(EXPERT), "2", "zfleet.action", tag.replace('"version":2', '"version":3')
    )
    found = check_registry(registry._connection, repair=True)
    (chain,) = [one for one in found if one.check == "chain"]
    assert (chain.where, chain.mended) == (f"{EXPERT}, entry 2", False)
    assert "nothing mends a chain" in chain.then
    assert ("chain", f"{EXPERT}, entry 2", chain.fault) in faults(registry)


def test_what_cut_short_uploads_left(
    registry: ExpertRegistry, put: Put, make_z: MakeZ, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    put("code", 5)
    job = registry.start_run("cohort", experiment="lab")
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "create_version", killed)
        with pytest.raises(KeyboardInterrupt):
            put()
        with pytest.raises(KeyboardInterrupt):
            registry.register("math", make_z(), Provenance.of(make_z()), base_name="lab", run_id=job)
    registry.end_run(job)
    assert faults(registry) == [], "they may be under way"
    later = time.time() + 2 * 3600
    monkeypatch.setattr("zfleet_registry.fsck.uploads.time.time", lambda: later)
    (folder,) = root.glob(f"artifacts/{job}/artifacts/experts/*")
    assert sorted(one[2] for one in faults(registry)) == [
        f"no version has experts/{folder.name}",
        f"the registration of {EXPERT} was cut short",
    ]
    assert len(repair(registry)) == 2
    assert not folder.exists()
    # The files of a version that somebody deleted stay.
    deleted = put()
    put(seed=1)
    registry._client.delete_model_version(EXPERT, "1")
    assert faults(registry) == []
    assert list(root.rglob(deleted.artifact))


def test_what_the_import_of_a_folder_left(
    registry: ExpertRegistry, put: Put, make_z: MakeZ, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run is among those of single registrations, and may have versions of many experts."""

    def full(*_: object, **__: object) -> None:
        raise RegistryError("the disk is full")

    def import_one(name: str) -> FileOutcome:
        file = tmp_path / "z.safetensors"
        file.write_bytes(make_z().to_bytes(z_file.metadata(f"{SLUG}.{name}", Provenance.of(make_z()))))
        (outcome,) = import_files(registry, [file])
        return outcome

    assert import_one("code").new
    put("code", 1)
    registry._client.delete_model_version(f"{SLUG}.code", "1")
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "create_version", full)
        assert import_one("math").error == "the disk is full"
    later = time.time() + 2 * 3600
    monkeypatch.setattr("zfleet_registry.fsck.uploads.time.time", lambda: later)
    (folder,) = root.glob(f"artifacts/*/artifacts/experts/{EXPERT}-*")
    assert [one[2] for one in faults(registry)] == [f"no version has experts/{folder.name}"]
    assert repair(registry) == ["deleted the folder"]
    assert not folder.exists()


def test_runs_and_experiments_that_were_deleted(registry: ExpertRegistry, put: Put, make_z: MakeZ) -> None:
    job = registry.start_run("cohort", experiment="lab")
    version = registry.register("math", make_z(), Provenance.of(make_z()), base_name="lab", run_id=job)
    registry._client.delete_run(job)
    assert faults(registry) == [("run", version.qualified, f"its run {job} was deleted in MLflow")]
    assert repair(registry) == ["restored it"]
    put(seed=1)
    for name in ("lab", "registrations"):
        experiment = registry._client.get_experiment_by_name(name)
        assert experiment is not None
        registry._client.delete_experiment(experiment.experiment_id)
    assert {one[1] for one in faults(registry)} == {"experiment lab", "experiment registrations"}
    assert repair(registry) == ["restored it"] * 2
    put(seed=2)


def test_extra_tensors_and_cycles(registry: ExpertRegistry, make_z: MakeZ, put: Put) -> None:
    put()
    put(seed=1)
    z = make_z(2)
    (only,) = z.values
    extra = ZVector({**z.values, "model.layers.9.mlp": torch.ones(4)}, z.base, z.factors, z.targets)
    short = ZVector({name: value[:-1] for name, value in z.values.items()}, z.base, z.factors, z.targets)
    for one in (extra, short):
        registry.register("math", one, Provenance.of(one), base_name="lab")
    assert [one[1:] for one in faults(registry)] == [
        (f"{EXPERT}/3", "its z has an extra model.layers.9.mlp, unlike other versions on its factors"),
        (f"{EXPERT}/4", f"its z has 7 values for {only}, not 8, unlike other versions on its factors"),
    ]
    for number in ("3", "4"):
        registry._client.delete_model_version(EXPERT, number)
    for name, parent in (("arc", "circle/1"), ("circle", "arc/1")):
        made = Provenance.of(z, kind="mixture", parents=(Parent(parent, z.digest, 1.0),))
        registry.register(name, z, made, base_name="lab")
    (cycle,) = check_registry(registry._connection, repair=True)
    assert (cycle.check, cycle.mended) == ("parents", False)
    assert "is its own ancestor" in cycle.fault


def test_the_command(registry: ExpertRegistry, put: Put, root: Path) -> None:
    def call(*arguments: str, code: int = 0) -> str:
        line = ["experts", "fsck", *arguments, "--registry", f"sqlite:///{root / 'mlflow.db'}"]
        done = CliRunner().invoke(app, line, env={"COLUMNS": "80"})
        assert done.exit_code == code, done.output
        return done.stdout

    version = put(alias="champion")
    put(seed=1)
    assert call() == "faults: none\n"
    registry._client.set_registered_model_alias(EXPERT, "champion", "2")
    (file,) = root.rglob(version.artifact)
    file.unlink()
    shown = call(code=1)
    assert all(len(line) <= 80 for line in shown.splitlines())
    found: dict[str, Any] = json.loads(call("--json", code=1))
    assert (found["left"], [one["mended"] for one in found["faults"]]) == (2, [False, False])
    mended = json.loads(call("--repair", "--json", code=1))
    assert (mended["left"], [one["mended"] for one in mended["faults"]]) == (1, [True, False])
    assert "mended: " not in call(code=1)

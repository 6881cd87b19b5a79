"""Many versions: few requests for an answer, lists in pages, and folders that are imported whole and only once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from typer.testing import CliRunner

from zfleet.errors import ExpertNotFound, RegistryUnreachable
from zfleet.svf.zvector import ZVector
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance, bulk, z_file
from zfleet_registry.bulk import import_files
from zfleet_registry.log import Entry, verify

MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]
SLUG = "lab-1a2b3c4d"


@contextmanager
def transactions() -> Iterator[list[str]]:
    """Collect one item for each transaction that any database sees: a request of MLflow's client is one."""
    begun: list[str] = []

    def note(connection: object) -> None:
        begun.append("begin")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "begin", note)
    try:
        yield begun
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "begin", note)


@pytest.mark.parametrize(("reference", "requests"), [("math@champion", 1), ("math/2", 1), ("math", 1), ("code", 2)])
def test_a_reference_costs_few_requests(reference: str, requests: int, registry: ExpertRegistry, put: Put) -> None:
    put(seed=1)
    put(seed=2, alias="champion")
    put("code", seed=3)
    with transactions() as begun:
        version = registry.resolve(reference, SLUG)
    assert len(begun) == requests
    assert version == next(one for one in registry.list() if one.qualified == version.qualified)


@pytest.mark.parametrize("reference", ["math@latest", "math@v1", "math@challenger", "math/9", "maths"])
def test_what_is_not_there(reference: str, registry: ExpertRegistry, put: Put) -> None:
    put(seed=1, alias="champion")
    with pytest.raises(ExpertNotFound):
        registry.resolve(reference, SLUG)


def test_pages_have_every_version_once(registry: ExpertRegistry, put: Put) -> None:
    for name in ("math", "code"):
        for seed in range(3):
            put(name, seed=seed, alias="champion" if seed == 1 else None)
    put("math", seed=9, base_name="other")
    everything: list[ExpertVersion] = []
    after, pages = "", 0
    while pages == 0 or after:
        page = registry.page(limit=2, after=after)
        everything += page.versions
        after, pages = page.after, pages + 1
    assert pages == 4
    assert everything == registry.list()
    of_base = registry.page(SLUG, limit=10)
    assert (list(of_base.versions), of_base.after) == (registry.list(SLUG), "")


def test_the_command_lists_pages(root: Path, put: Put) -> None:
    for seed in range(3):
        put(seed=seed)
    command = ["experts", "list", "--json", "--registry", f"sqlite:///{root}/mlflow.db"]
    first = CliRunner().invoke(app, [*command, "--limit", "2"])
    assert [row["expert"] for row in json.loads(first.stdout)] == ["math/1", "math/2"]
    token = first.stderr.strip().removeprefix("more: --after ")
    second = CliRunner().invoke(app, [*command, "--limit", "2", "--after", token])
    assert [row["expert"] for row in json.loads(second.stdout)] == ["math/3"]
    assert second.stderr == ""
    assert len(json.loads(CliRunner().invoke(app, command).stdout)) == 3
    for bad in (["--after", token], ["--limit", "2", "--after", "tomorrow"], ["--limit", "0"]):
        assert CliRunner().invoke(app, [*command, *bad]).exit_code != 0


def test_a_z_and_the_bases_of_a_name_are_found(registry: ExpertRegistry, put: Put, make_z: MakeZ) -> None:
    put(seed=1)
    newest = put(seed=1, alias="champion")
    put(seed=2)
    put("code", seed=3, base_name="other")
    put("basic-math", seed=4, base_name="other")
    assert registry.find("math", make_z(1)) == registry.resolve(newest.qualified)
    assert registry.find("code", make_z(1)) is None
    assert registry.bases_of("math") == {SLUG}
    assert registry.bases_of("code") == {"other-1a2b3c4d"}
    assert registry.bases_of("none") == set()


@pytest.fixture
def folder(tmp_path: Path, make_z: MakeZ) -> Path:
    """Five files of two experts, one of which is twice there."""
    files = tmp_path / "files"
    (files / "code").mkdir(parents=True)
    for number, (name, seed) in enumerate([("math", 1), ("code/code", 2), ("math", 3), ("math", 1), ("code/code", 5)]):
        z = make_z(seed)
        expert = f"{SLUG}.{Path(name).name}"
        data = z.to_bytes(z_file.metadata(expert, Provenance.of(z, task="arithmetic")))
        (files / Path(name).parent / f"{number}.safetensors").write_bytes(data)
    return files


def invoke(root: Path, folder: Path, *options: str) -> Any:
    uri = f"sqlite:///{root}/mlflow.db"
    return CliRunner().invoke(app, ["experts", "import", str(folder), "--registry", uri, *options])


def test_a_folder_is_imported_once(registry: ExpertRegistry, root: Path, folder: Path, make_z: MakeZ) -> None:
    checked = invoke(root, folder, "--dry-run")
    assert (checked.exit_code, checked.stdout) == (0, "5 can be imported, 0 failed\n")
    assert registry.list() == []
    done = invoke(root, folder, "--json")
    assert json.loads(done.stdout) == {"new": 4, "known": 1, "failed": []}
    versions = registry.list()
    assert [one.reference for one in versions] == ["code/1", "code/2", "math/1", "math/2"]
    assert [one.z_digest for one in versions] == [make_z(seed).digest for seed in (2, 5, 1, 3)]
    assert len({one.run_id for one in versions}) == 1
    assert {one.provenance.task for one in versions} == {"arithmetic"}
    assert versions[0].provenance.imported_from.startswith("1.safetensors sha256:")
    assert all(registry.load(one).digest == one.z_digest for one in versions)
    assert verify(registry.log(SLUG, "math").entries()) is None
    again = invoke(root, folder)
    assert (again.exit_code, again.stdout) == (0, "0 imported, 5 were there already, 0 failed\n")
    assert registry.list() == versions


def test_an_import_that_was_interrupted_goes_on(registry: ExpertRegistry, folder: Path) -> None:
    files = sorted(folder.rglob("*.safetensors"))
    begun = import_files(registry, files)
    (first,) = islice(begun, 1)
    assert first.new
    begun.close()  # type: ignore[attr-defined]
    before = registry.list()
    assert 1 <= len(before) < 4
    run = registry._client.get_run(before[0].run_id)
    assert run.info.status == "KILLED"
    rest = list(import_files(registry, files))
    assert len([one for one in rest if one.new]) == 4 - len(before)
    assert len(registry.list()) == 4
    entries = registry.log(SLUG, "code").entries()
    assert [entry.number for entry in entries if isinstance(entry, Entry)] == [1, 2]


def test_a_file_that_cannot_be_imported_stops_no_other(
    registry: ExpertRegistry, root: Path, folder: Path, make_z: MakeZ
) -> None:
    whole = folder / "0.safetensors"
    (folder / "cut.safetensors").write_bytes(whole.read_bytes()[:-8])
    z = make_z(7)
    (folder / "nameless.safetensors").write_bytes(z.to_bytes())
    (folder / "of-another.safetensors").write_bytes(z.to_bytes(z_file.metadata("lab-99999999.math", Provenance.of(z))))
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    done = invoke(root, folder, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["new"], found["known"]) == (4, 1)
    errors = {Path(one["file"]).name: one["error"] for one in found["failed"]}
    assert errors.keys() == {"cut.safetensors", "nameless.safetensors", "of-another.safetensors", "gone.safetensors"}
    assert "says no name, or no base" in errors["nameless.safetensors"]
    assert "its z belongs to base" in errors["of-another.safetensors"]
    assert len(registry.list()) == 4
    shown = invoke(root, folder)
    assert "failed: " in shown.stderr
    options = invoke(root, folder, "--name", "math")
    assert options.exit_code == 1
    assert "say bases, names and targets themselves" in options.stderr


def test_a_registry_that_goes_away_ends_an_import(registry: ExpertRegistry, root: Path, folder: Path) -> None:
    files = sorted(folder.rglob("*.safetensors"))
    begun = import_files(registry, files)
    next(begun)
    (root / "mlflow.db").rename(root / "away.db")
    with pytest.raises(RegistryUnreachable):
        list(begun)
    (root / "away.db").rename(root / "mlflow.db")
    assert not [one for one in import_files(registry, files) if one.error]
    assert len(registry.list()) == 4


def test_a_file_registry_is_written_by_one_thread(registry: ExpertRegistry) -> None:
    assert not registry.takes_writers_at_once
    assert bulk._WRITERS > 1

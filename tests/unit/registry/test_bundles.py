"""A bundle carries experts, dispatchers and their parents to another registry, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zfleet.adapt.document import DispatcherDocument
from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import DispatcherError, FormatError
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, ExpertVersion, Parent, Provenance
from zfleet_registry.bundles import RegisteredVersion, open_bundle, register_bundle, write_bundle
from zfleet_registry.bundles.manifest import MANIFEST
from zfleet_registry.log.store import log_model

SLUG = "lab-1a2b3c4d"
MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]


@pytest.fixture
def filled(registry: ExpertRegistry, put: Put, make_z: MakeZ) -> list[ExpertVersion]:
    """math/1, math/2, code/1, a mixture of math/2 and code/1, and a dispatcher between them."""
    versions = [put("math", 0.0), put("math", 0.25, "champion"), put("code", 0.5)]
    zs = [make_z(0.25), make_z(0.5)]
    mixture = mix(zs, [0.5, 0.25])
    parents = tuple(
        Parent(one.reference, one.z_digest, alpha) for one, alpha in zip(versions[1:], (0.5, 0.25), strict=True)
    )
    both = Provenance.of(mixture, parents=parents, kind="mixture", metrics={"accuracy": 0.75})
    versions.append(registry.register("both", mixture, both, base_name="lab"))
    document = DispatcherDocument.model_validate(
        {
            "base": zs[0].base,
            "factors": zs[0].factors,
            "experts": {"math/2": zs[0].digest, "both/1": mixture.digest},
            "routes": {"sum": {"math/2": 1.0}, "mixed": {"math/2": 0.5, "both/1": 0.5}},
            "steps": [{"kind": "classifier", "asks": "math/2", "question": "{prompt}?"}],
        }
    )
    dispatcher = StoredDispatcher(document)
    facts = Provenance.of_dispatcher(dispatcher, spec="{}", code_version="1", metrics={})
    versions.append(registry.register("router", dispatcher, facts, base_name="lab"))
    return versions


@pytest.fixture
def written(registry: ExpertRegistry, filled: list[ExpertVersion], tmp_path: Path) -> Path:
    path = tmp_path / "air.zip"
    write_bundle(registry, [filled[-1]], path)
    return path


@pytest.fixture
def there(database: Path, tmp_path: Path) -> ExpertRegistry:
    """Make another registry, which has an expert of its own by one of the names."""
    folder = tmp_path / "there"
    folder.mkdir()
    shutil.copy(database, folder)
    return ExpertRegistry(root=folder)


def test_a_dispatcher_arrives_with_all_that_it_needs(
    written: Path, filled: list[ExpertVersion], registry: ExpertRegistry, there: ExpertRegistry, make_z: MakeZ
) -> None:
    own = make_z(3.0)
    there.register("math", own, Provenance.of(own), base_name="lab")
    versions, sha256 = _open(written)
    assert versions == ["math/2", "code/1", "both/1", "router/1"]
    rows = _register(there, written)
    assert [row.registered for row in rows] == [f"{SLUG}.{one}" for one in ("math/2", "code/1", "both/1", "router/1")]
    assert [row.aliases for row in rows] == [("champion",), (), (), ()]
    assert all(not version.aliases for version in there.list())
    both = there.resolve("both", SLUG)
    assert both.provenance.metrics == {"accuracy": 0.75}
    assert both.provenance.imported_from == f"{SLUG}.both/1 of air.zip sha256:{sha256}"
    assert there.load(both).digest == filled[3].z_digest
    router = there.load_dispatcher(there.resolve("router", SLUG))
    router.check_experts({one.reference: one.z_digest for one in there.list()})
    # Again, nothing is new.
    before = there.list()
    assert [row.new for row in _register(there, written)] == [False] * 4
    assert there.list() == before


def test_references_follow_the_numbers_of_the_other_registry(
    written: Path, there: ExpertRegistry, make_z: MakeZ
) -> None:
    for seed in (3.0, 4.0):
        own = make_z(seed)
        there.register("math", own, Provenance.of(own), base_name="lab")
    _register(there, written)
    both, router = (there.resolve(name, SLUG) for name in ("both", "router"))
    assert [parent.reference for parent in both.provenance.parents] == ["math/3", "code/1"]
    assert {parent.reference for parent in router.provenance.parents} == {"math/3", "both/1"}
    dispatcher = there.load_dispatcher(router)
    assert dispatcher.document.routes == {"sum": {"math/3": 1.0}, "mixed": {"math/3": 0.5, "both/1": 0.5}}
    assert dispatcher.document.steps[0].asks == "math/3"
    dispatcher.check_experts({one.reference: one.z_digest for one in there.list()})
    with pytest.raises(DispatcherError, match="a version of its own"):
        dispatcher.document.renamed({"math/3": "both/1"})


def test_versions_that_are_named_twice_or_as_parents_are_written_once(
    registry: ExpertRegistry, filled: list[ExpertVersion], written: Path, tmp_path: Path
) -> None:
    again = write_bundle(registry, [filled[-1], filled[2], filled[-1]], tmp_path / "again.zip")
    assert _open(tmp_path / "again.zip") == (_open(written)[0], again.sha256)


def test_parents_that_are_gone_are_left_out_and_a_cycle_ends(
    registry: ExpertRegistry, filled: list[ExpertVersion], make_z: MakeZ, tmp_path: Path
) -> None:
    z = make_z(2.0)
    others = (Parent("gone/1", "0" * 64, 1.0), Parent("math/1", "1" * 64, 1.0))
    for name, parent in (("arc", "circle/1"), ("circle", "arc/1")):
        made = Provenance.of(z, kind="mixture", parents=(Parent(parent, z.digest, 1.0), *others))
        version = registry.register(name, z, made, base_name="lab")
    written = write_bundle(registry, [version], tmp_path / "circle.zip")
    names = sorted(one.reference for one in written.versions)
    assert names == ["arc/1", "circle/1"], "math/1 has another z than the parent had"


def _register(there: ExpertRegistry, path: Path) -> list[RegisteredVersion]:
    with open_bundle(path) as bundle:
        return register_bundle(there, bundle)


def _open(path: Path) -> tuple[list[str], str]:
    """Verify a bundle; return its versions and its digest."""
    with open_bundle(path) as bundle:
        return [one.reference for one in bundle.manifest.versions], bundle.sha256


Change = Callable[[dict[str, bytes]], dict[str, bytes]]


def _rewrite(path: Path, change: Change, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    with zipfile.ZipFile(path, "w", compression) as bundle:
        for name, data in change(members).items():
            bundle.writestr(name, data)


def _listed(**changes: Any) -> Change:
    """Change the first version of the manifest."""

    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        manifest = json.loads(members[MANIFEST])
        manifest["versions"][0] |= changes
        return members | {MANIFEST: json.dumps(manifest).encode()}

    return change


def _provenance(**changes: str) -> Change:
    def change(members: dict[str, bytes]) -> dict[str, bytes]:
        known = json.loads(members[MANIFEST])["versions"][0]["provenance"]
        return _listed(provenance=known | changes)(members)

    return change


def _replaced(members: dict[str, bytes]) -> dict[str, bytes]:
    """List a file with its true digest, which holds no expert."""
    data = b"no expert"
    digest = hashlib.sha256(data).hexdigest()
    first = f"files/{json.loads(members[MANIFEST])['versions'][0]['sha256']}.safetensors"
    members = _listed(sha256=digest, size=len(data))(members)
    del members[first]
    return members | {f"files/{digest}.safetensors": data}


def _flipped(members: dict[str, bytes]) -> dict[str, bytes]:
    name = next(name for name in members if name != MANIFEST)
    return members | {name: members[name][:-1] + bytes([members[name][-1] ^ 1])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flipped, "another digest than listed"),
        (_replaced, "cannot be used"),
        (lambda members: members | {"../../evil": b"x"}, "../../evil"),
        (lambda members: members | {"/etc/evil": b"x"}, "/etc/evil"),
        (lambda members: members | {"files/more.safetensors": b"x"}, "more.safetensors"),
        (lambda members: {MANIFEST: members[MANIFEST]}, "lacks 'files/"),
        (lambda members: {name: data for name, data in members.items() if name != MANIFEST}, f"holds no {MANIFEST}"),
        (lambda members: members | {MANIFEST: b"{"}, "cannot be used"),
        (lambda members: members | {MANIFEST: b'{"format": "zfleet-bundle/1", "versions": []}'}, "versions"),
        (_listed(sha256="../../etc/passwd"), "sha256"),
        (_listed(size=2**40), "size"),
        (_listed(size=10), "bytes, more than 10"),
        (_listed(name="../math"), "cannot be used"),
        (_listed(name="m" * 300), "cannot be used"),
        (_listed(base_slug="lab-00000000"), "belongs to base 1a2b3c4d1a2b"),
        (_listed(base_slug="lab"), "cannot be used"),
        (_listed(run="x"), "run"),
        (_listed(provenance={}), "provenance of"),
        (_provenance(z_digest="0" * 64), "has z_digest"),
        (_provenance(base="0" * 64), "has base"),
        (_provenance(kind="transfer"), "has 0 parents"),
        (_provenance(kind="oracle"), "is damaged"),
        (_provenance(parents="{"), "is damaged"),
        (_provenance(metrics="[[["), "is damaged"),
    ],
)
def test_a_bundle_that_was_changed_is_refused(
    written: Path, there: ExpertRegistry, change: Change, message: str
) -> None:
    _rewrite(written, change)
    with pytest.raises(FormatError) as refused:
        _register(there, written)
    assert message in refused.value.message
    assert refused.value.remedy
    assert there.list() == []


def test_a_bundle_that_is_no_plain_zip_is_refused(written: Path) -> None:
    data = written.read_bytes()
    compressed = written.with_name("compressed.zip")
    shutil.copy(written, compressed)
    _rewrite(compressed, lambda members: members, zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="compressed or encrypted"):
        _open(compressed)
    bomb = written.with_name("bomb.zip")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MANIFEST, b" " * 2**27)
    with pytest.raises(FormatError, match="compressed or encrypted"):
        _open(bomb)
    with zipfile.ZipFile(bomb, "w") as file:
        file.writestr(MANIFEST, b" " * (2**26 + 1))
    with pytest.raises(FormatError, match="bytes, more than"):
        _open(bomb)
    twice = written.with_name("twice.zip")
    shutil.copy(written, twice)
    with zipfile.ZipFile(twice, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr(MANIFEST, file.read(MANIFEST))
    with pytest.raises(FormatError, match="or twice"):
        _open(twice)
    for cut in (data[: len(data) // 2], data[:-1], b"", b"PK"):
        written.write_bytes(cut)
        with pytest.raises(FormatError, match="truncated, damaged or no bundle"):
            _open(written)
    with pytest.raises(FormatError, match="No such file"):
        _open(written.with_name("none.zip"))


def test_the_commands_write_check_and_register_a_bundle(
    root: Path, filled: list[ExpertVersion], there: ExpertRegistry, tmp_path: Path
) -> None:
    def run(folder: Path, *arguments: object) -> str:
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        done = CliRunner().invoke(app, ["experts", *map(str, arguments), "--registry", uri], env={"COLUMNS": "100"})
        assert done.exit_code == 0, done.output
        return done.stdout

    path = tmp_path / "air.zip"
    exported = json.loads(run(root, "export", "router", "math/1", "--to", "bundle", "--out", path, "--json"))
    assert len(exported["versions"]) == 5
    checked = run(tmp_path / "there", "import", path, "--dry-run")
    assert "nothing was registered" in checked
    assert there.list() == []
    imported = json.loads(run(tmp_path / "there", "import", path, "--json"))
    assert [row["new"] for row in imported] == [True] * 5
    assert {row["registered"] for row in imported} == {version.qualified for version in there.list()}
    assert "champion" in run(tmp_path / "there", "import", path)
    uri = f"sqlite:///{root / 'mlflow.db'}"
    refused = CliRunner().invoke(app, ["experts", "import", str(path), "--name", "x", "--registry", uri])
    assert "give the file alone" in refused.stderr


def test_the_log_comes_along_with_its_chain(written: Path, registry: ExpertRegistry) -> None:
    expert = f"{SLUG}.math"
    with open_bundle(written) as bundle:
        entries, broken = bundle.log(expert)
        assert broken is None
        assert entries == list(registry.log(SLUG, "math").entries())
        with pytest.raises(FormatError, match=r"has no log of nobody") as refused:
            bundle.log("nobody")
        assert expert in refused.value.remedy
    shown = CliRunner().invoke(app, ["experts", "history", "math", "--bundle", str(written), "--json"])
    assert shown.exit_code == 0, shown.output
    assert [entry["what"] for entry in json.loads(shown.output)["entries"]] == ["register", "register", "set"]


def test_a_changed_log_is_told(registry: ExpertRegistry, filled: list[ExpertVersion], tmp_path: Path) -> None:
    log = registry.log(SLUG, "math")
    second = registry._client.get_model_version(log_model(log.expert), "2")
    forged = second.tags["zfleet.action"].replace('"version":2', '"version":7')
    assert forged != second.tags["zfleet.action"]
    registry._client.set_model_version_tag(log_model(log.expert), "2", "zfleet.action", forged)
    path = tmp_path / "forged.zip"
    write_bundle(registry, [filled[1]], path)
    shown = CliRunner().invoke(app, ["experts", "history", "math", "--bundle", str(path)])
    assert shown.exit_code == 1
    assert "the log is broken at entry 2" in shown.output

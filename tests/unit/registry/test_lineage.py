"""Lineage, comparison and card: where a version comes from, and how another one differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
from typer.testing import CliRunner

from zfleet.errors import CorruptArtifact, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, ExpertVersion, Parent, Provenance
from zfleet_registry.lineage import Edge, lineage_of
from zfleet_registry.lineage.comparison import FieldDifference, ScoreDifference, compare_versions
from zfleet_registry.lineage.picture import draw_lineage
from zfleet_registry.provenance.card import description
from zfleet_registry.z_file import read_origin

MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]
SLUG = "lab-1a2b3c4d"


@pytest.fixture
def family(registry: ExpertRegistry, put: Put, make_z: MakeZ) -> ExpertVersion:
    """Register math/1, math/2 trained further from it, code/1, a mixture, and another expert that has no relation."""
    first, code = put("math", 1, "champion"), put("code", 2)
    put("other", 9)
    z = make_z(3)
    further = Provenance.of(z, parents=(Parent("math/1", first.z_digest, 1.0),))
    second = registry.register("math", z, further, base_name="lab")
    z = make_z(4)
    parents = (Parent("math/2", second.z_digest, 0.6), Parent(f"{SLUG}.code/1", code.z_digest, 0.4))
    return registry.register("both", z, Provenance.of(z, kind="mixture", parents=parents), base_name="lab")


def test_ancestors_and_descendants(registry: ExpertRegistry, family: ExpertVersion) -> None:
    versions = registry.list()
    found = lineage_of(versions, [family])
    assert [(node.version.removeprefix(f"{SLUG}."), node.generation) for node in found.nodes] == [
        ("code/1", 0),
        ("math/1", 0),
        ("math/2", 1),
        ("both/1", 2),
    ]
    assert Edge(f"{SLUG}.math/2", f"{SLUG}.both/1", "mixed", 0.6) in found.edges
    assert Edge(f"{SLUG}.math/1", f"{SLUG}.math/2", "trained further", 1.0) in found.edges
    from_code = lineage_of(versions, [registry.resolve("code/1", SLUG)])
    assert {node.version for node in from_code.nodes} == {f"{SLUG}.code/1", f"{SLUG}.both/1"}
    assert lineage_of(versions, [registry.resolve("other", SLUG)]).edges == ()
    assert draw_lineage(found, "png").startswith(b"\x89PNG")
    assert b"</svg>" in draw_lineage(found, "svg")


def test_a_cycle_is_refused_or_named(registry: ExpertRegistry, put: Put, make_z: MakeZ) -> None:
    z = make_z(1)
    for reference in ("loop/1", f"{SLUG}.loop/7"):
        provenance = Provenance.of(z, kind="mixture", parents=(Parent(reference, z.digest, 1.0),))
        with pytest.raises(RegistryError, match="as a parent, which does not exist before it"):
            registry.register("loop", z, provenance, base_name="lab")
    for name, parent in (("first", "second/1"), ("second", "first/1")):
        provenance = Provenance.of(z, kind="mixture", parents=(Parent(parent, z.digest, 1.0),))
        registry.register(name, z, provenance, base_name="lab")
    with pytest.raises(RegistryError, match=r"its own ancestor: .*first/1 > .*second/1"):
        lineage_of(registry.list(), [registry.resolve("first", SLUG)])


def test_parents_of_a_deleted_version_stay(registry: ExpertRegistry, family: ExpertVersion) -> None:
    registry._client.delete_model_version(f"{SLUG}.code", "1")
    found = lineage_of(registry.list(), [family])
    assert [node.kind for node in found.nodes if node.version.endswith("code/1")] == ["unknown"]


def test_two_versions_are_compared(registry: ExpertRegistry, make_z: MakeZ, put: Put) -> None:
    specs = ({"learner": {"lr": 0.1, "steps": 5}}, {"learner": {"lr": 0.2, "steps": 5}, "new": [1, 2]})
    versions = []
    for seed, spec in enumerate(specs):
        z = make_z(seed)
        provenance = Provenance.of(z, spec=json.dumps(spec), metrics={"accuracy": 0.5 + seed / 10}, seed=seed)
        versions.append(registry.register("math", z, provenance, base_name="lab"))
    found = compare_versions(registry, *versions)
    assert [one.field for one in found.fields] == ["z_digest", "seed"]
    assert found.spec == (
        FieldDifference("learner.lr", "0.1", "0.2"),
        FieldDifference("new.0", "-", "1"),
        FieldDifference("new.1", "-", "2"),
    )
    assert found.scores == (ScoreDifference("accuracy", 0.5, 0.6),)
    assert found.layers is not None
    assert found.layers[0].difference == pytest.approx(1.0)


def test_a_file_alone_tells_where_it_is_from(registry: ExpertRegistry, make_z: MakeZ, root: Path) -> None:
    z = make_z()
    provenance = Provenance.of(
        z,
        task="sums",
        task_digest="t" * 64,
        data_digest="d" * 64,
        spec='{"steps": 5}',
        code_version="0.1.0 (abc)",
        metrics={"accuracy": 0.5},
        intervals={"accuracy": (0.4, 0.6)},
        parametrisation="sigmoid",
        seed=0,
        licence="Apache-2.0",
    )
    version = registry.register("math", z, provenance, base_name="lab")
    assert registry.resolve("math", SLUG) == version
    registration = version.registration
    assert registration is not None
    assert (registration.base_name, registration.run_id) == ("lab", version.run_id)
    assert {"python", "torch", "mlflow"} <= registration.packages.keys()
    (file,) = root.rglob("*.safetensors")
    assert read_origin(file) == (f"{SLUG}.math", provenance, registration)
    with safetensors.safe_open(file, "pt") as opened:
        assert opened.metadata()["digest"] == z.digest
    (stored,) = root.rglob("card.md")
    text = stored.read_text()
    for part in ("# lab-1a2b3c4d.math", z.digest, "| accuracy | 0.5 | 0.4 to 0.6 |", "Apache-2.0", '"steps": 5'):
        assert part in text
    described = registry._client.get_model_version(f"{SLUG}.math", "1").description
    assert described == description(f"{SLUG}.math", provenance, registration)
    assert len(description("x", Provenance("b", "f", "m", "z", task="|" * 9000), None)) == 5000
    file.write_bytes(b"x" * 100)
    with pytest.raises(CorruptArtifact, match="does not say where it is from"):
        read_origin(file)
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        read_origin(root / "none.safetensors")


def test_a_version_without_the_new_fields_still_loads(registry: ExpertRegistry, put: Put) -> None:
    version = put()
    registry._client.delete_model_version_tag(f"{SLUG}.math", "1", "zfleet.registration")
    old = registry.resolve("math", SLUG)
    assert old.registration is None
    assert registry.load(old).digest == version.z_digest


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ('{"registry": "postgresql://ann:hunter2@db/x"}', "a password in a URL"),
        ('{"note": "hf_abcdefghijklmnopqrstuvwxyz"}', "a token of Hugging Face"),
        ('{"nested": [{"api_key": "1234"}]}', "a value of 'api_key'"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ('{"storage": {"secret": "x"}}', "a value of 'secret'"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(registry: ExpertRegistry, make_z: MakeZ, spec: str, kind: str) -> None:
    z = make_z()
    with pytest.raises(RegistryError) as caught:
        registry.register("math", z, Provenance.of(z, spec=spec), base_name="lab")
    assert caught.value.message == f"spec contains {kind}"
    assert "hunter2" not in str(caught.value)
    assert registry.list() == []


def test_what_looks_like_a_secret_but_is_none_is_registered(registry: ExpertRegistry, make_z: MakeZ) -> None:
    z = make_z()
    spec = '{"max_tokens": "8", "registry": "postgresql://ann@db/x", "data": "' + "a1" * 32 + '", "password": null}'
    registry.register("math", z, Provenance.of(z, spec=spec, code_version="0.1.0 (abc)"), base_name="lab")


def test_the_commands(registry: ExpertRegistry, family: ExpertVersion, root: Path, tmp_path: Path) -> None:
    def call(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["experts", *arguments, "--registry", f"sqlite:///{root / 'mlflow.db'}"])
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    picture = tmp_path / "family.svg"
    nodes = json.loads(call("lineage", "math", "--picture", str(picture), "--json"))["nodes"]
    assert [node["version"].removeprefix(f"{SLUG}.") for node in nodes] == ["math/1", "math/2", "both/1"]
    assert picture.read_bytes().startswith(b"<?xml")
    assert "math/1" in call("lineage", "both")
    assert "neither .png nor .svg" in call("lineage", "math", "--picture", "family.gif", code=1)
    layers = json.loads(call("diff", "math/1", "math/2", "--json"))["layers"]
    assert layers[0]["difference"] == pytest.approx(2.0)
    assert "z - 1 by layer" in call("diff", "math/1", "code/1")
    assert call("card", "math/1").startswith(f"# {SLUG}.math/1")
    file = next(root.rglob("z.safetensors"))
    assert CliRunner().invoke(app, ["experts", "card", str(file)]).stdout.startswith(f"# {SLUG}.")
    for bad, message in (
        ("a/b", "no reference"),
        ("m" * 300, "can exist"),
        ("math/" + "1" * 20, "can exist"),
        ("math@v7", "has no alias"),
    ):
        assert message in call("history", bad, code=1)

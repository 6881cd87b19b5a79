"""``zfleet experts export`` and ``import``: what goes out comes in again, and what cannot is refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

from zfleet.formats.lora_export import CONFIG, WEIGHTS
from zfleet.svf.zvector import ZVector
from zfleet.testing.exports import FactoredBase
from zfleet.testing.parity import random_z
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, Provenance, z_file

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of this file share one cache of factors."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def based(tiny_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> FactoredBase:
    monkeypatch.setenv("ZFLEET_CACHE", str(cache))
    return FactoredBase.of(tiny_folder, cache / "factors", "mlp")


@pytest.fixture
def z(based: FactoredBase) -> ZVector:
    return random_z(based.factors.load(), 1)


@pytest.fixture
def command(registry: ExpertRegistry, root: Path, z: ZVector) -> Command:
    """``command(*arguments)``, in a registry with the expert math/1."""
    registry.register("math", z, Provenance.of(z, task="sums", metrics={"accuracy": 0.5}), base_name="tiny")

    def run(*arguments: object) -> Result:
        given = ["experts", *map(str, arguments), "--registry", f"sqlite:///{root / 'mlflow.db'}"]
        return CliRunner().invoke(app, given, env={"COLUMNS": "79"})

    return run


def _done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def test_a_lora_adapter_goes_out_and_comes_in(
    command: Command, registry: ExpertRegistry, based: FactoredBase, z: ZVector, tmp_path: Path
) -> None:
    out = tmp_path / "lora"
    shown = json.loads(
        _done(command("export", "math", "--to", "lora", "--out", out, "--base", based.folder, "--json")).stdout
    )
    assert [row["matrix"] for row in shown["matrices"]] == based.factors.names
    assert {path.name for path in out.iterdir()} == {CONFIG, WEIGHTS, "README.md"}
    card = (out / "README.md").read_text()
    assert shown["versions"][0] in card
    assert z.digest in card
    with safetensors.safe_open(out / WEIGHTS, "pt") as file:
        assert json.loads(file.metadata()["zfleet"])["z_digest"] == z.digest
    dry = _done(command("import", out, "--base", based.folder, "--name", "back", "--dry-run"))
    assert "what no z can express" in dry.stdout
    assert len(registry.list()) == 1
    plain = json.loads(_done(command("import", out, "--base", based.folder, "--name", "back", "--json")).stdout)
    assert [row["matrix"] for row in plain["residuals"]] == based.factors.names
    version = registry.resolve("back", registry.list()[0].base_slug)
    assert version.provenance.targets == "mlp"
    sha256 = hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest()
    assert version.provenance.imported_from == f"lora sha256:{sha256}"
    assert version.provenance.metrics["residual"] < 1e-5
    back = registry.load(version)
    assert all(torch.allclose(back.values[name], z.values[name], atol=1e-4) for name in z.values)


def test_ranks_and_errors_are_chosen(command: Command, based: FactoredBase, tmp_path: Path) -> None:
    lora = ("export", "math", "--to", "lora", "--base", based.folder, "--json")
    few = json.loads(_done(command(*lora, "--out", tmp_path / "few", "--rank", "3", "--dtype", "bfloat16")).stdout)
    assert {row["rank"] for row in few["matrices"]} == {3}
    close = json.loads(_done(command(*lora, "--out", tmp_path / "close", "--max-error", "0.01")).stdout)
    assert all(row["missing"] <= 0.01 * row["weight"] for row in close["matrices"])
    assert "missing" in _done(command(*lora[:-1], "--out", tmp_path / "full", "--rank", "full")).stdout


def test_an_expert_that_loses_too_much_is_not_registered(
    command: Command, registry: ExpertRegistry, based: FactoredBase, tmp_path: Path
) -> None:
    out = tmp_path / "lora"
    _done(command("export", "math", "--to", "lora", "--out", out, "--base", based.folder))
    tensors = safetensors.torch.load_file(out / WEIGHTS)
    # In another order of directions, which no z can reach.
    tensors = {key: one.flip(0).contiguous() if "lora_A" in key else one for key, one in tensors.items()}
    safetensors.torch.save_file(tensors, out / WEIGHTS)
    lossy = ("import", out, "--base", based.folder, "--name", "back")
    refused = command(*lossy, "--max-residual", "0.5")
    assert refused.exit_code == 1
    assert "more than --max-residual 50.0%" in refused.stderr
    assert len(registry.list()) == 1
    assert "%" in _done(command(*lossy, "--max-residual", "1")).stdout
    assert registry.list()[0].provenance.metrics["residual"] > 0.5


def test_a_folder_of_adapters_becomes_as_many_experts(
    command: Command, registry: ExpertRegistry, based: FactoredBase, tmp_path: Path
) -> None:
    for name in ("sums", "words"):
        _done(command("export", "math", "--to", "lora", "--out", tmp_path / "many" / name, "--base", based.folder))
    (tmp_path / "many" / "notes").mkdir()
    many = ("import", tmp_path / "many", "--base", based.folder)
    assert len(json.loads(_done(command(*many, "--json")).stdout)) == 2
    assert [version.name for version in registry.list()] == ["math", "sums", "words"]
    assert "holds several adapters" in command(*many, "--name", "x").stderr
    (tmp_path / "many" / "sums").rename(tmp_path / "many" / "a b")
    assert "'a b' cannot be used" in command(*many).stderr


def test_a_merged_checkpoint_goes_out_and_comes_in(
    command: Command, registry: ExpertRegistry, based: FactoredBase, z: ZVector, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    assert "rounding" in _done(command("export", "math", "--to", "merged", "--out", out, "--base", based.folder)).stdout
    assert z.digest in (out / "README.md").read_text()
    _done(command("import", out, "--base", based.folder, "--name", "back"))
    back = registry.load(registry.resolve("back", registry.list()[0].base_slug))
    assert back.targets == "mlp"
    assert all(torch.allclose(back.values[name], z.values[name], atol=1e-3) for name in z.values)
    wide = _done(command("import", out, "--base", based.folder, "--name", "wide", "--targets", "all", "--json"))
    assert json.loads(wide.stdout)["provenance"]["targets"] == "all"


def test_a_z_file_says_itself_what_it_is(
    command: Command, registry: ExpertRegistry, based: FactoredBase, z: ZVector, tmp_path: Path
) -> None:
    out = tmp_path / "math.safetensors"
    _done(command("export", "math", "--to", "z", "--out", out))
    assert ZVector.load(out).digest == z.digest
    before = registry.list()
    _done(command("import", out))
    assert registry.list() == before, "the registry has it already"
    _done(command("import", out, "--name", "copy"))
    copy = registry.resolve("copy", before[0].base_slug)
    assert copy.provenance.task == "sums"
    assert copy.provenance.metrics == {"accuracy": 0.5}
    assert copy.provenance.imported_from.startswith("math.safetensors sha256:")
    registered = registry.resolve("math", copy.base_slug).registration
    assert registered is not None
    assert z_file.read_origin(out)[2] == registered
    # A bare z, as `ZVector.save` writes it, says neither name nor base.
    bare = tmp_path / "bare.safetensors"
    z.save(bare)
    assert "says no base or no name" in command("import", bare, "--name", "bare").stderr
    _done(command("import", bare, "--name", "bare", "--base", based.folder))


def test_damaged_z_files_are_refused(command: Command, registry: ExpertRegistry, z: ZVector, tmp_path: Path) -> None:
    out = tmp_path / "z.safetensors"
    other = ZVector(z.values, "e" * 64, z.factors, z.targets)
    name = f"tiny-{z.base[:8]}.math"
    strings = json.dumps(Provenance.of(other).to_strings())
    for data, message in (
        (z.to_bytes()[:-1], "no complete safetensors file"),
        (safetensors.torch.save({"a": torch.ones(3)}), "has format None"),
        (z.to_bytes({"name": name, "provenance": strings}), "is of another z"),
        (z.to_bytes({"name": name, "provenance": "{"}), "is damaged"),
        (z.to_bytes({"name": name, "provenance": "[1]"}), "is damaged"),
        (z.to_bytes({"name": "tiny-00000000.math"}), "its z belongs to base"),
        (z.to_bytes({"name": "../../math"}), "no reference to an expert"),
    ):
        out.write_bytes(data)
        refused = command("import", out)
        assert refused.exit_code == 1, refused.output
        assert message in refused.stderr
        assert "remedy: " in refused.stderr
    with out.open("r+b") as file:
        file.truncate(10 * 2**30)  # sparse: it takes no room
    assert "10,737,418,240 bytes" in command("import", out).stderr
    assert len(registry.list()) == 1


def test_options_and_places_that_make_no_sense_are_refused(
    command: Command, based: FactoredBase, tmp_path: Path
) -> None:
    there, new = tmp_path / "there", tmp_path / "new"
    there.mkdir()
    base = ("--base", based.folder)
    for arguments, message in (
        (("export", "math", "--to", "gguf", "--out", new), "zfleet writes no GGUF files"),
        (("export", "math", "--to", "lora", "--out", new), "needs the base's weights"),
        (("export", "math", "--to", "lora", "--out", there, *base), "is there already"),
        (("export", "math", "--to", "lora", "--out", new, *base, "--rank", "0"), "--rank is '0'"),
        (("export", "math", "--to", "lora", "--out", new, *base, "--rank", "many"), "--rank is 'many'"),
        (("export", "math", "--to", "lora", "--out", new, *base, "--rank", "1", "--max-error", "1"), "both choose"),
        (("export", "math", "--to", "merged", "--out", new, *base, "--rank", "1"), "--rank has no effect"),
        (("export", "math", "math", "--to", "lora", "--out", new, *base), "takes one"),
        (("export", "math", "--to", "z", "--out", new), "is no .safetensors file"),
        (("export", "math", "--to", "bundle", "--out", new), "is no .zip file"),
        (("export", "math", "--to", "z", "--out", "/dev/null/z.safetensors"), "cannot be written"),
        (("export", "maths", "--to", "lora", "--out", new, *base), "has no expert 'maths'"),
        (("import", new, *base, "--name", "x"), "is not there"),
        (("import", there, *base, "--name", "x"), "neither an adapter nor a checkpoint"),
        (("import", based.folder, *base), "--name is not given"),
        (("import", based.folder, "--name", "x"), "--base is not given"),
        (("import", based.folder, *base, "--name", "x"), "the very weights of the base"),
    ):
        refused = command(*arguments)
        assert refused.exit_code == 1, arguments
        assert message in refused.stderr.replace("\n", " "), refused.stderr
        assert "remedy: " in refused.stderr
    assert not new.exists()


def test_an_expert_of_another_base_or_without_its_factors_is_refused(
    command: Command, based: FactoredBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(based.folder, tmp_path / "other"))
    weights = safetensors.torch.load_file(other / "model.safetensors")
    weights["model.norm.weight"] += 1
    safetensors.torch.save_file(weights, other / "model.safetensors", {"format": "pt"})
    new = tmp_path / "new"
    refused = command("export", "math", "--to", "lora", "--out", new, "--base", other)
    assert "name the base that the expert was trained on" in refused.stderr
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "empty"))
    refused = command("export", "math", "--to", "lora", "--out", new, "--base", based.folder)
    assert "are not on this machine" in refused.stderr
    assert not new.exists()

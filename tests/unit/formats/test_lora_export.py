"""An exported LoRA adapter computes in PEFT what our factored form computes, or misses exactly what its card says."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import PeftModel

from zfleet.errors import FormatError, WrongBase
from zfleet.formats.card import adapter_card
from zfleet.formats.lora_export import CONFIG, WEIGHTS, Truncation, export_lora
from zfleet.models.base import load_base
from zfleet.models.matrices import module_paths
from zfleet.svf.directions import fewest_directions, largest_directions
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.testing.exports import FactoredBase, delta_of
from zfleet.testing.parity import random_z
from zfleet.testing.tiny_bases import FAMILIES
from zfleet.testing.tiny_vision import save_tiny_vision

FULL = partial(largest_directions, k=2**20)
IDS = torch.randint(5, 60, (2, 24), generator=torch.Generator().manual_seed(0))


def _export(based: FactoredBase, z: ZVector, out: Path, **options: object) -> list[Truncation]:
    paths = module_paths(based.folder, based.factors.names)
    return export_lora(z, based.factors, paths, out, **{"keep": FULL, **options})  # type: ignore[arg-type]


def _opened(based: FactoredBase, out: Path, dtype: torch.dtype) -> PeftModel:
    base = load_base(based.folder, dtype=dtype).model
    return PeftModel.from_pretrained(base, str(out), autocast_adapter_dtype=False)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_rank_peft_gives_our_logits(family: str, out: Path, tmp_path: Path) -> None:
    based = FactoredBase.tiny(family, tmp_path)
    z = random_z(based.factors.load(), 1)
    rows = _export(based, z, out)
    assert [row.missing for row in rows] == [0.0] * len(rows)
    exact = _opened(based, out, torch.float64)(input_ids=IDS).logits
    assert float((exact - based.logits(z, IDS, torch.float64)).abs().max()) < 1e-5
    plain = load_base(based.folder, dtype=torch.float64).model(input_ids=IDS).logits
    assert float((exact - plain).abs().max()) > 0.1, "the z of this test changes nothing"
    single = _opened(based, out, torch.float32)(input_ids=IDS).logits
    expected = based.logits(z, IDS, torch.float32)
    assert float((single - expected).abs().max() / expected.abs().max()) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("rank", [1, 5, 40])
def test_a_truncated_adapter_misses_what_was_predicted(based: FactoredBase, z: ZVector, out: Path, rank: int) -> None:
    """Rank 40 is more than k and v have: ranks differ by matrix."""
    rows = _export(based, z, out, keep=partial(largest_directions, k=rank), dtype=torch.float64)
    model = _opened(based, out, torch.float64)
    for row in rows:
        factors = based.factors.matrix(row.matrix)
        change = factors.merged(z.values[row.matrix]) - factors.merged(torch.ones_like(factors.s))
        missing = float((change - delta_of(model, row.matrix)).norm())
        assert row.rank == min(rank, *factors.shape)
        assert missing == pytest.approx(row.missing, rel=1e-5, abs=1e-5 * row.change)
        assert row.change == pytest.approx(float(change.norm()), rel=1e-6)
        # Eckart and Young: the singular values of the change that are left out.
        beyond = torch.linalg.svdvals(change)[row.rank :]
        assert row.missing == pytest.approx(float(beyond.norm()), rel=1e-4, abs=1e-5 * row.change)


def test_an_error_chooses_the_ranks(based: FactoredBase, z: ZVector, out: Path) -> None:
    rows = _export(based, z, out, keep=partial(fewest_directions, error=0.05))
    assert all(row.missing <= 0.05 * row.weight for row in rows)
    ranks = {row.matrix: row.rank for row in rows if row.rank}
    assert len(set(ranks.values())) > 1
    config = json.loads((out / CONFIG).read_text())
    assert {config["rank_pattern"].get(name, config["r"]) for name in ranks} == set(ranks.values())
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert set(config["target_modules"]) == set(ranks)


def test_a_matrix_that_does_not_change_has_no_adapter(based: FactoredBase, z: ZVector, out: Path) -> None:
    changed = based.factors.names[3]
    values = {name: one if name == changed else torch.ones_like(one) for name, one in z.values.items()}
    rows = _export(based, ZVector(values, z.base, z.factors, z.targets), out)
    assert {row.matrix for row in rows if row.rank} == {changed}
    assert len(safetensors.torch.load_file(out / WEIGHTS)) == 2


def test_the_types_of_an_adapter(based: FactoredBase, z: ZVector, out: Path) -> None:
    _export(based, z, out, dtype=torch.bfloat16, base_model="tiny", metadata={"zfleet": "{}"})
    assert {one.dtype for one in safetensors.torch.load_file(out / WEIGHTS).values()} == {torch.bfloat16}
    with safetensors.safe_open(out / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt", "zfleet": "{}"}
    assert json.loads((out / CONFIG).read_text())["base_model_name_or_path"] == "tiny"


def test_an_adapter_of_a_language_tower_names_the_whole_models_modules(
    tiny_folder: Path, out: Path, tmp_path: Path
) -> None:
    seeing = FactoredBase.of(save_tiny_vision("llava", tiny_folder, tmp_path / "eyes"), tmp_path / "factors", "mlp")
    z = random_z(seeing.factors.load(), 1)
    _export(seeing, z, out)
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(seeing.folder, dtype=torch.float64)
    adapted = PeftModel.from_pretrained(model, str(out), autocast_adapter_dtype=False)
    with torch.no_grad():
        found = adapted(input_ids=IDS).logits
    assert float((found - seeing.logits(z, IDS, torch.float64)).abs().max()) < 1e-5


def test_what_makes_no_adapter_is_refused(based: FactoredBase, z: ZVector, out: Path) -> None:
    with pytest.raises(FormatError, match="the adapter would be the base"):
        _export(based, mix([z], [0.0]), out)
    with pytest.raises(WrongBase):
        _export(based, ZVector(z.values, z.base, "0" * 64, z.targets), out)
    assert list(out.iterdir()) == []


def test_the_card_says_what_is_missing(based: FactoredBase, z: ZVector, out: Path) -> None:
    rows = _export(based, z, out, keep=partial(largest_directions, k=3))
    card = adapter_card("math/3", "a: b", {"task": "sums\n`````"}, rows)
    assert 'base_model: "a: b"' in card
    assert all(f"| {row.matrix} | 3 | {row.change:.6g} | {row.missing:.6g} |" in card for row in rows)
    assert "sums\\n" in card

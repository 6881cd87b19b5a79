"""Every supported family gives its merged models' tokens, any other is refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, LlavaConfig, OPTConfig, PreTrainedConfig
from typer.testing import CliRunner

from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import BaseModelError, EngineError
from zfleet.models.base import Base, load_base
from zfleet.models.bundle import pack_base
from zfleet.models.families import FAMILIES, check_family, check_vllm_head_size, head_size
from zfleet.models.matrices import target_matrices
from zfleet.models.svf_model import SvfModel
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors
from zfleet.svf.layout import target_names
from zfleet.svf.shards import parts_of
from zfleet.testing.parity import (
    HIDDEN_TOLERANCE,
    collect_hidden,
    compare,
    greedy_answers,
    hidden_error,
    random_prompts,
    random_z,
)
from zfleet.testing.tiny_bases import FAMILIES as TINY
from zfleet.testing.tiny_bases import save_tiny
from zfleet_cli.main import app

EXPERTS = 6
NEW_TOKENS = 16
# The factored form rounds otherwise than W does: of logits around 2, in fp32.
TOLERANCE = 2e-4
"""Largest difference of logits."""

QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
GLU = ("gate_proj", "up_proj", "down_proj")
LINEARS = {
    **dict.fromkeys(TINY, (QKVO, GLU)),
    "phi": (("q_proj", "k_proj", "v_proj", "dense"), ("fc1", "fc2")),
    "phi3": (("qkv_proj", "o_proj"), ("gate_up_proj", "down_proj")),
}
# As listed by vLLM 0.32 from its models of the tiny bases.
VLLM_LINEARS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
VLLM_PHI = ("self_attn.qkv_proj", "self_attn.dense", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Tiny:
    """One family's base: its folder, the plain model and the factors of all linears."""

    name: str
    folder: Path
    base: Base
    factors: Factors


@pytest.fixture(scope="module", params=TINY)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp(request.param)
    base = load_base(save_tiny(request.param, root / "base"))
    factors = FactorCache(root / "factors").get(target_matrices(root / "base", base.fingerprint))
    return Tiny(request.param, root / "base", base, factors)


def test_every_supported_family_has_a_tiny_base(tmp_path: Path) -> None:
    types = {AutoConfig.from_pretrained(save_tiny(name, tmp_path / name)).model_type for name in TINY}
    assert types == set(FAMILIES)


def test_presets_choose_attention_and_mlp_and_nothing_else(tiny: Tiny) -> None:
    attention, mlp = LINEARS[tiny.name]
    expected = {
        "attention": {f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in attention},
        "mlp": {f"model.layers.{layer}.mlp.{name}" for layer in range(2) for name in mlp},
    }
    expected["all"] = expected["attention"] | expected["mlp"]
    assert {preset: set(target_names(tiny.base.model, preset)) for preset in expected} == expected


def test_the_tiny_base_has_what_its_family_has(tiny: Tiny) -> None:
    """Otherwise the tests below would pass over it."""
    config, parameters = tiny.base.model.config, dict(tiny.base.model.named_parameters())
    biases = {name.split(".")[-2] for name in parameters if name.endswith(".bias")}
    norms = {"input_layernorm", "final_layernorm"}
    everything = {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2", "lm_head", *norms}
    expected = {"llama-bias": {*QKVO, *GLU}, "qwen2": {"q_proj", "k_proj", "v_proj"}, "phi": everything}
    assert biases == expected.get(tiny.name, set())
    assert all(bool((value != 0).all()) for name, value in parameters.items() if value.ndim == 1)
    assert ("lm_head.weight" not in parameters) == (tiny.name in ("gemma", "llama-tied"))
    assert config.num_key_value_heads < config.num_attention_heads
    assert any(name.endswith("q_norm.weight") for name in parameters) == (tiny.name == "qwen3")
    assert head_size(config) == 32


def test_at_z_1_the_factored_form_is_the_base(tiny: Tiny) -> None:
    vocabulary = int(tiny.base.model.config.vocab_size)
    ids = torch.tensor(random_prompts(vocabulary, [40] * 3))
    model = SvfModel(load_base(tiny.folder), tiny.factors)
    with torch.no_grad():
        expected = tiny.base.model(input_ids=ids).logits
        factored = model.logits(ids, torch.ones(3, model.layout.size))
        changed = model.logits(ids, random_z(tiny.factors, 1).flat(model.layout).expand(3, -1))
    assert float((factored - expected).abs().max()) < TOLERANCE
    assert float((changed - expected).abs().max()) > 0.1


def test_logits_at_one_place_of_each_row_are_those_of_the_whole_pass(tiny: Tiny) -> None:
    """They go past the model's own forward pass through the head: no family may compute more there."""
    model = SvfModel(load_base(tiny.folder), tiny.factors)
    ids = torch.tensor(random_prompts(int(tiny.base.model.config.vocab_size), [20] * 3))
    z = torch.stack([random_z(tiny.factors, seed).flat(model.layout) for seed in range(3)])
    places = torch.tensor([19, 0, 7])
    with torch.no_grad():
        for rows in (z, None):
            whole = model.logits(ids, rows, use_cache=False)[torch.arange(3), places]
            torch.testing.assert_close(model.logits_at(model.inputs(ids), rows, places), whole, atol=1e-5, rtol=1e-5)


def test_a_mixed_batch_gives_the_merged_models_tokens_and_hidden_states(tiny: Tiny) -> None:
    zs = [*(random_z(tiny.factors, seed) for seed in range(EXPERTS)), None, random_z(tiny.factors, 0)]
    prompts = random_prompts(int(tiny.base.model.config.vocab_size), [3, 31, 7, 18, 60, 44, 12, 9])
    engine = TorchEngine(SvfModel(load_base(tiny.folder), tiny.factors), EngineSpec(slots=len(zs)))
    with SyncEngine(engine) as sync:
        answers = greedy_answers(sync, prompts, zs, NEW_TOKENS)
        assert sync.stats().peak_distinct_z == EXPERTS + 1
        states = sync.run(collect_hidden(engine, prompts, zs))
    parity = compare(tiny.folder, tiny.factors, prompts, zs, answers)
    assert parity.different == ()
    assert len(parity.unmoved) < len(zs) // 2
    assert hidden_error(tiny.folder, tiny.factors, prompts, zs, states) < HIDDEN_TOLERANCE


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(),
        GPTNeoXConfig(),
        OPTConfig(),
        LlavaConfig(text_config=GPT2Config()),
        {"model_type": "mixtral"},
        {"model_type": "new"},
        {},
    ],
    ids=lambda config: str(getattr(config, "model_type", config)),
)
def test_another_family_is_refused_by_name(
    tiny_folder: Path, tmp_path: Path, config: PreTrainedConfig | dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever opens a base: engines and jobs load it or pack it."""
    folder = _base_with(config, tiny_folder, tmp_path / "other-base")
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    model_type = config.get("model_type") if isinstance(config, dict) else config.model_type
    for opened in (lambda: load_base(folder), lambda: pack_base(BaseSpec(model=str(folder)))):
        with pytest.raises(BaseModelError) as refused:
            opened()
        assert repr(model_type) in refused.value.message
        assert "other-base" in refused.value.message
        assert all(family in refused.value.remedy for family in FAMILIES)
    assert not (tmp_path / "cache").exists()


def test_decompose_refuses_another_family(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _base_with(GPTNeoXConfig(), tiny_folder, tmp_path / "neox")
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(app, ["decompose", "--set", f"base.model={folder}"])
    assert done.exit_code == 1
    assert "gpt_neox" in done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_supported_families_are_accepted(family: str) -> None:
    check_family({"model_type": family}, "base")


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (LlamaConfig(hidden_size=64, num_attention_heads=8), 8),
        (LlamaConfig(hidden_size=96, num_attention_heads=2), 48),
        (LlamaConfig(hidden_size=128, num_attention_heads=2, head_dim=32), 32),
        (LlamaConfig(hidden_size=128, num_attention_heads=4, head_dim=256), 256),
        (GPT2Config(n_embd=160, n_head=2), 80),
        (LlamaConfig(hidden_size=2048, num_attention_heads=2), 1024),
    ],
    ids=str,
)
def test_head_sizes_that_vllm_does_not_take_are_refused(config: PreTrainedConfig, size: int) -> None:
    assert head_size(config) == size
    if size in (32, 80, 256):
        check_vllm_head_size(config, "stories")
        return
    with pytest.raises(EngineError, match=rf"stories.* {size},") as refused:
        check_vllm_head_size(config, "stories")
    assert "engine: torch" in refused.value.remedy


def test_the_parts_of_a_fused_linear_come_in_the_order_of_its_shards() -> None:
    attention, mlp = "model.layers.11.self_attn", "model.layers.11.mlp"
    names = {f"{attention}.{name}" for name in QKVO} | {f"{mlp}.{name}" for name in GLU}
    assert parts_of(f"{attention}.qkv_proj", names) == tuple(f"{attention}.{name}" for name in QKVO[:3])
    assert parts_of(f"{mlp}.gate_up_proj", names) == tuple(f"{mlp}.{name}" for name in GLU[:2])
    assert parts_of(f"{attention}.o_proj", names) == (f"{attention}.o_proj",)
    assert parts_of("lm_head", names) == ("lm_head",)


def test_a_linear_that_the_base_fused_itself_is_one_matrix() -> None:
    path = "model.layers.0.self_attn.qkv_proj"
    assert parts_of(path, {path}) == (path,)


def test_the_parts_of_vllms_linears_are_the_targets(tiny: Tiny) -> None:
    """Every target lies in exactly one of them."""
    names = target_names(tiny.base.model, "all")
    linears = VLLM_PHI if tiny.name == "phi" else VLLM_LINEARS
    paths = [f"model.layers.{layer}.{linear}" for layer in range(2) for linear in linears]
    assert sorted(part for path in paths for part in parts_of(path, names)) == sorted(names)


def _base_with(config: PreTrainedConfig | dict[str, str], donor: Path, folder: Path) -> Path:
    """A base folder of another family: its config beside some weights, which are not looked at."""
    folder.mkdir()
    for file in donor.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    told = config if isinstance(config, dict) else config.to_dict()
    (folder / "config.json").write_text(json.dumps(told))
    return folder

"""Two processes that hold half of a base each are one that holds it whole; recomputed activations are the kept ones."""

from __future__ import annotations

import copy
import gc
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import LlamaConfig, LlamaForCausalLM

from zfleet.config.specs import BaseSpec
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import BaseModelError, EngineError
from zfleet.models.base import load_base
from zfleet.models.bundle import pack_base
from zfleet.models.completions import Row, lay_out
from zfleet.models.lab.tokenizer import build_tokenizer
from zfleet.models.matrices import target_matrices
from zfleet.models.recompute import checkpoint_layers, decoder_layers
from zfleet.models.sharded import most_micro_batches, open_sharded
from zfleet.models.svf_model import Sharding, SvfModel
from zfleet.models.teacher_forcing import completion_hidden, completion_logprobs, completion_values
from zfleet.models.token_values import Divergence, Selection
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.loss import policy_loss
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors
from zfleet.svf.linear import SvfLinear
from zfleet.testing.seeing import Seeing
from zfleet.testing.tiny_bases import save_tiny
from zfleet.testing.two_ranks import as_two_ranks, of_both, run_two_ranks

BASES = ("gemma", "phi", "odd")
"""Gemma's embeddings are its head, Phi has biases everywhere, and most widths of the odd Llama are not even."""

Texts = Sequence[tuple[int, ...]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What one process finds on whole bases, and each of two on its halves."""
    root = tmp_path_factory.mktemp("sharded")
    alone: dict[str, Tensor] = {}
    for name in BASES:
        folder = _save_odd(root / name) if name == "odd" else save_tiny(name, root / name)
        base = load_base(folder)
        model = SvfModel(base, FactorCache(root / "factors").get(target_matrices(folder, base.fingerprint)))
        alone |= {f"{name}/{key}": value for key, value in _measure(model).items()}
        alone[f"{name}/bytes"] = torch.tensor(_factored_bytes(model))
    run_two_ranks(__file__, str(root))
    return [alone, *of_both(root)]


@pytest.fixture
def lone_mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", BASES)
def test_halves_give_the_logprobs_and_the_gradient_of_the_whole(runs: list[dict[str, Tensor]], name: str) -> None:
    alone, *both = runs
    for key in ("logprobs", "base_logprobs", "gradient"):
        expected = alone[f"{name}/{key}"]
        largest = float(expected.abs().max())
        assert largest > 1e-2, "there is nothing to compare"
        for rank in both:
            assert float((rank[f"{name}/{key}"] - expected).abs().max()) <= 2e-5 * largest, key
    assert torch.equal(both[0][f"{name}/gradient"], both[1][f"{name}/gradient"])
    for rank in both:
        share = rank[f"{name}/share"]
        expected = alone[f"{name}/gradient"]
        assert float((share - expected).abs().max()) > 1e-2 * float(expected.abs().max()), "a share would have passed"
        assert torch.equal(rank[f"{name}/recomputed"], rank[f"{name}/gradient"])
        assert int(rank[f"{name}/passes"]) == 4, "both run as often as the one with more samples"


@pytest.mark.parametrize("name", BASES)
def test_each_process_holds_half_and_no_more(runs: list[dict[str, Tensor]], name: str) -> None:
    alone, *both = runs
    whole = int(alone[f"{name}/bytes"])
    for rank in both:
        assert 0.45 * whole < int(rank[f"{name}/bytes"]) < 0.53 * whole, (int(rank[f"{name}/bytes"]), whole)


def test_what_a_process_knows_of_split_factors_is_their_identity(runs: list[dict[str, Tensor]]) -> None:
    alone, *both = runs
    for key in [key for key in alone if key.endswith(("/spectrum", "/digest"))]:
        assert all(torch.equal(rank[key], alone[key]) for rank in both), key


def test_the_embedded_engine_refuses_a_model_that_is_split(tiny_model: SvfModel, lone_mesh: DeviceMesh) -> None:
    split = copy.copy(tiny_model)
    split.sharding = Sharding(lone_mesh, split.binding)
    with pytest.raises(EngineError, match="split over the processes") as refused:
        TorchEngine(split)
    assert "vllm" in refused.value.remedy


def test_a_base_that_takes_images_is_not_split(seeing: Seeing, tmp_path: Path, lone_mesh: DeviceMesh) -> None:
    with pytest.raises(BaseModelError, match="takes images"):
        open_sharded(seeing.model.base, tmp_path, "all", lone_mesh)


def test_a_bundle_opens_split(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lone_mesh: DeviceMesh
) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    bundle = pack_base(BaseSpec(model=str(tiny_folder)))
    whole, split = bundle.open(), bundle.open(lone_mesh)
    assert split.factors.digest == whole.factors.digest
    z = _z(whole).detach().expand(1, -1)
    with torch.no_grad():
        assert torch.equal(split.logits(torch.tensor([[1, 7, 9]]), z), whole.logits(torch.tensor([[1, 7, 9]]), z))


def test_recomputed_layers_give_the_same_gradient_and_keep_less(tiny_folder: Path, tiny_factors: Factors) -> None:
    model = SvfModel(load_base(tiny_folder), tiny_factors)
    kept, gradient = _kept_and_gradient(model)
    checkpoint_layers(model)
    less, again = _kept_and_gradient(model)
    assert torch.equal(again, gradient)
    assert less < kept / 2, (less, kept)


def test_rows_are_bound_again_when_another_thread_goes_backward(tiny_folder: Path, tiny_factors: Factors) -> None:
    model = SvfModel(load_base(tiny_folder), tiny_factors)
    checkpoint_layers(model)
    _, here = _kept_and_gradient(model)
    z = _z(model)
    loss = _loss(model, z, *_texts(), torch.linspace(-1, 1, 7))
    found: list[Tensor] = []
    # As autograd does on a GPU; other rows are bound in this one.
    with model.bound(torch.zeros(7, model.layout.size)):
        thread = threading.Thread(target=lambda: found.append(torch.autograd.grad(loss, z)[0]))
        thread.start()
        thread.join()
    assert torch.equal(found[0], here)


def test_a_bfloat16_base_has_a_float32_z_and_gradient(tiny_folder: Path, tiny_factors: Factors) -> None:
    exact = _kept_and_gradient(SvfModel(load_base(tiny_folder), tiny_factors))[1]
    model = SvfModel(load_base(tiny_folder, dtype=torch.bfloat16), tiny_factors)
    _, gradient = _kept_and_gradient(model)
    assert gradient.dtype == _z(model).dtype == torch.float32
    assert not torch.equal(gradient, gradient.bfloat16().float()), "the gradient was rounded to bfloat16"
    assert float(torch.cosine_similarity(gradient, exact, dim=0)) > 0.98


def _texts() -> tuple[Texts, Texts]:
    """Prompts and completions of seven samples, of different lengths."""
    rng = random.Random(3)
    drawn = [tuple(rng.randrange(5, 60) for _ in range(rng.randrange(1, 9))) for _ in range(14)]
    return drawn[:7], drawn[7:]


def _z(model: SvfModel) -> Tensor:
    noise = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(0))
    return (1 + 0.3 * noise).requires_grad_()


def _rows(prompts: Texts, completions: Texts) -> list[Row]:
    """Each prompt with its completion; those of an even length also with the completion backwards."""
    return [
        Row(prompt, (completion,) if len(prompt) % 2 else (completion, completion[::-1]))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _loss(model: SvfModel, z: Tensor, prompts: Texts, completions: Texts, advantages: Tensor) -> Tensor:
    """The learner's: the policy's, and the divergence from the base."""
    batch = lay_out(_rows(prompts, completions), model)
    with torch.no_grad():
        reference = Divergence(completion_hidden(model, batch, None), "policy", learned=True)
    (values,) = completion_values(model, batch, z.expand(len(prompts), -1), [Selection(divergence=reference)])
    assert values.divergence is not None
    return policy_loss(values.logprobs, advantages[batch.owners]) + 0.3 * values.divergence.sum()


def _kept_and_gradient(model: SvfModel) -> tuple[int, Tensor]:
    """Bytes that the forward pass keeps for the backward pass beside the weights, and the gradient."""
    weights = {tensor.data_ptr() for tensor in [*model.base.model.buffers(), *model.base.model.parameters()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def note(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pack(inputs[0])

    z = _z(model)
    # What goes into a layer that is recomputed is kept, and no saved tensor of autograd's.
    hooks = [layer.register_forward_pre_hook(note) for _, layer in decoder_layers(model.base.model)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = _loss(model, z, *_texts(), torch.linspace(-1, 1, 7))
    for hook in hooks:
        hook.remove()
    return sum(kept.values()), torch.autograd.grad(loss, z)[0]


def _gradient(model: SvfModel, workers: DataParallel, passes: int) -> Tensor:
    """Of the worker's share, a sample a pass; the first again, times 0, where others have more."""
    prompts, completions = _texts()
    advantages = torch.linspace(-1, 1, len(prompts))
    first, share = workers.share(prompts)
    z = _z(model)
    gradient = torch.zeros_like(z)
    for number in range(passes):
        mine = number < len(share)
        one = slice(first + number, first + number + 1) if mine else slice(0, 1)
        loss = _loss(model, z, prompts[one], completions[one], advantages[one])
        gradient += torch.autograd.grad(loss * float(mine), z)[0]
    return gradient


def _measure(model: SvfModel, mesh: DeviceMesh | None = None) -> dict[str, Tensor]:
    workers = DataParallel() if mesh is None else DataParallel(mesh.get_rank(), mesh.size())
    prompts, completions = _texts()
    batch = lay_out(_rows(prompts, completions), model)
    with torch.no_grad():
        logprobs = completion_logprobs(model, batch, _z(model).expand(len(prompts), -1))
        base_logprobs = completion_logprobs(model, batch, None)
    passes = most_micro_batches(model, len(workers.share(prompts)[1]))
    share = _gradient(model, workers, passes)
    gradient = workers.sum(share.clone())
    return {
        "logprobs": logprobs,
        "base_logprobs": base_logprobs,
        "share": share,
        "gradient": gradient,
        "passes": torch.tensor(passes),
        "spectrum": model.layout.flatten(model.factors.singular_values),
        "digest": torch.tensor(list(bytes.fromhex(model.factors.digest))),
    }


def _save_odd(folder: Path) -> Path:
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=33,
        intermediate_size=49,
        num_hidden_layers=3,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _factored_bytes(model: SvfModel) -> int:
    """Of the whole base, its target matrices as factors alone."""
    for module in model.base.model.modules():
        if isinstance(module, SvfLinear):
            module.forget_weight()
    return sum(tensor.nbytes for tensor in [*model.base.model.parameters(), *model.base.model.buffers()])


def _tensor_bytes() -> int:
    """Of all storages that any tensor of this process has."""
    gc.collect()
    storages = [thing.untyped_storage() for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages if storage.device.type == "cpu"}.values())


def _work(root: Path, rank: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{root / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    found: dict[str, Tensor] = {}
    for name in BASES:
        before = _tensor_bytes()
        base = load_base(root / name)
        factors = FactorCache(root / "factors").folder(base.fingerprint, "all")
        model = open_sharded(base, factors, "all", mesh)
        workers = DataParallel(rank, 2)
        _gradient(model, workers, 4)
        held = _tensor_bytes() - before
        measured = _measure(model, mesh)
        checkpoint_layers(model)
        measured["recomputed"] = workers.sum(_gradient(model, workers, 4))
        found |= {f"{name}/{key}": value for key, value in measured.items()}
        found[f"{name}/bytes"] = torch.tensor(held)
        del base, model
    safetensors.torch.save_file(found, root / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    as_two_ranks(lambda rank: _work(Path(sys.argv[1]), rank))

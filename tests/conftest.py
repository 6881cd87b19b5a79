"""What tests share: a tiny random base, z-vectors for it, and one Ray cluster a session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# One process less for each run of Ray Train: it looks for nodes that are about to be taken away, and no test takes one.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from zfleet.engine.vllm_engine.version import installed_vllm
from zfleet.models.base import Base, load_base
from zfleet.models.lab.tokenizer import build_tokenizer
from zfleet.models.matrices import target_matrices
from zfleet.models.svf_model import SvfModel
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of vLLM are skipped where it is not installed; `make test` installs it, so that CI skips none."""
    if installed_vllm() is None:
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed (`make vllm`)"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with the lab's tokenizer, as a Hugging Face folder.

    Tests of learning and search are tuned to these very weights; families have ``zfleet.testing.tiny_bases``.
    """
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        # Larger than usual, so that the random model prefers some tokens clearly.
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_folder: Path) -> Base:
    """The tiny base with plain linears; do not change it."""
    return load_base(tiny_folder)


@pytest.fixture(scope="session")
def tiny_factors(tiny_base: Base, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Factors:
    """Its factors."""
    cache = FactorCache(tmp_path_factory.mktemp("factors"))
    return cache.get(target_matrices(tiny_folder, tiny_base.fingerprint))


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path, tiny_factors: Factors) -> SvfModel:
    """The tiny base in SVF form."""
    return SvfModel(load_base(tiny_folder), tiny_factors)


@pytest.fixture(scope="session")
def make_z(tiny_factors: Factors) -> Callable[..., ZVector]:
    """``make_z(seed, spread=0.3)``: a random z for the tiny base."""

    def make(seed: int, spread: float = 0.3) -> ZVector:
        return random_z(tiny_factors, seed, spread)

    return make


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster for the session; more CPUs than cores, because tests wait more than they compute."""
    import ray

    import zfleet_cluster  # noqa: F401  (it sets Ray's environment before Ray is imported)

    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        configure_logging=False,
    )
    yield
    ray.shutdown()

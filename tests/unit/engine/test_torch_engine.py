"""The embedded engine passes what every engine passes."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from zfleet.config.specs import EngineSpec
from zfleet.engine.contract import BASE_Z, Engine
from zfleet.engine.torch_engine import batch
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.engine.torch_engine.slot_cache import SlotCache
from zfleet.errors import BaseModelError
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_conformance import EngineConformance
from zfleet.testing.engine_harness import run, sampled


class TestTorchEngine(EngineConformance):
    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_model: SvfModel, make_z: Callable[..., ZVector]) -> None:
        self._model, self._make_z = tiny_model, make_z
        texts = ("flip bca", "reverse hello", "sort ab", "add 3 4", "kind? turn xyz", "order qwe")
        self.prompts = tuple(tuple(tiny_model.base.tokenizer(text)["input_ids"]) for text in texts)

    async def make_engine(self, *, z_rows: int, slots: int) -> Engine:
        return TorchEngine(self._model, EngineSpec(slots=slots, z_rows=z_rows))

    def make_z(self, seed: int) -> ZVector:
        return self._make_z(seed)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"sliding_window": 100}, r"attends to the last 100 tokens only"),
        ({"rope_parameters": {"rope_type": "dynamic", "original_max_position_embeddings": 100}}, r"\(dynamic\)"),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 100}}, r"beyond 100 tokens"),
    ],
)
def test_lengths_that_a_base_treats_otherwise_are_refused(
    tiny_model: SvfModel, monkeypatch: pytest.MonkeyPatch, limit: dict[str, object], message: str
) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(tiny_model.base.model.config, name, value, raising=False)
    TorchEngine(tiny_model, EngineSpec(max_length=100))
    with pytest.raises(BaseModelError, match=message) as refused:
        TorchEngine(tiny_model, EngineSpec(max_length=101))
    assert refused.value.remedy == "set engine.max_length to at most 100"


async def test_an_engine_that_has_nothing_to_do_gives_its_cache_back(
    tiny_model: SvfModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner on the same model needs the memory. Later answers are the same ones."""
    prompt = tuple(tiny_model.base.tokenizer("flip bca")["input_ids"])
    released: list[int] = []
    monkeypatch.setattr(batch, "_KEPT_BYTES", 0)
    monkeypatch.setattr(SlotCache, "release", _noted(SlotCache.release, released))
    engine = TorchEngine(tiny_model, EngineSpec(slots=2))
    answers = [await run(engine, sampled(prompt, 1, BASE_Z)) for _ in range(2)]
    await engine.close()
    assert answers[0] == answers[1]
    assert released
    assert all(released)


def _noted(release: Callable[[SlotCache], None], sizes: list[int]) -> Callable[[SlotCache], None]:
    def note(cache: SlotCache) -> None:
        sizes.append(cache.nbytes)
        release(cache)
        assert cache.nbytes == 0

    return note


async def test_the_global_random_states_stay_as_they_are(tiny_model: SvfModel, make_z: Callable[..., ZVector]) -> None:
    """Constructing an engine, and sampling with and without a seed, neither seeds them nor draws from them."""
    z = make_z(1)
    before = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
    engine = TorchEngine(tiny_model, EngineSpec(slots=2))
    prompt = tuple(tiny_model.base.tokenizer("flip bca")["input_ids"])
    digest = await engine.put_z(z)
    for seed in (None, 1):
        await run(engine, sampled(prompt, seed, digest))
    await engine.close()
    assert (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()) == before

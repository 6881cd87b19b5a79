"""vLLM passes what every engine passes, and gives the merged models' tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from zfleet.config.specs import BaseSpec, EngineSpec, VllmSpec
from zfleet.engine.contract import Engine
from zfleet.engine.vllm_core import CorePlan, VllmCore
from zfleet.engine.vllm_engine import VllmEngine
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_conformance import EngineConformance
from zfleet.testing.parity import collect_greedy, compare, random_prompts, random_z

SLOTS, ROWS = 64, 20
SPEC = EngineSpec(kind="vllm", slots=SLOTS, z_rows=ROWS, vllm=VllmSpec(cache_gib=0.25, batch_tokens=64))
"""Few tokens a step, so that prompts run in pieces."""

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


class KeptCore(VllmCore):
    """Processes that outlive the engines on top of them: starting them takes longer than a test."""

    def close(self) -> None:
        pass

    def end(self) -> None:
        super().close()


@pytest.fixture(scope="module")
def bundle(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseBundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZFLEET_CACHE", str(tmp_path_factory.mktemp("cache")))
        return pack_base(BaseSpec(model=str(tiny_folder)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def core(bundle: BaseBundle) -> AsyncIterator[KeptCore]:
    core = KeptCore(CorePlan.unpack(bundle, SPEC))
    await core.start()
    yield core
    core.end()


@pytest.fixture(scope="module")
def factors(bundle: BaseBundle) -> Factors:
    return bundle.open().factors


class TestVllmEngine(EngineConformance):
    @pytest.fixture(autouse=True)
    def _tiny(self, core: KeptCore, bundle: BaseBundle, factors: Factors) -> None:
        self._core, self._bundle, self._factors = core, bundle, factors
        self._tokenizer = bundle.tokenizer()
        texts = ("flip bca", "reverse hello", "sort ab", "add 3 4", "kind? turn xyz", "order qwe")
        self.prompts = tuple(tuple(self._tokenizer(text)["input_ids"]) for text in texts)

    async def make_engine(self, *, z_rows: int, slots: int) -> Engine:
        await self._core.call("zfleet_open")
        return VllmEngine(self._core, self._tokenizer, EngineSpec(kind="vllm", slots=slots, z_rows=z_rows))

    def make_z(self, seed: int) -> ZVector:
        return random_z(self._factors, seed)


async def test_64_prompts_of_16_experts_in_one_batch_give_the_merged_models_tokens(
    core: KeptCore, bundle: BaseBundle, tiny_folder: Path, factors: Factors
) -> None:
    """With the prefix cache on, and a prefix that prompts of the same and of other experts share."""
    await core.call("zfleet_open")
    engine = VllmEngine(core, bundle.tokenizer(), SPEC)
    experts = [random_z(factors, seed) for seed in range(16)]
    zs = [experts[i % 16] for i in range(64)]
    prompts = random_prompts(core.plan.vocabulary, [3, 31, 7, 18, 5, 44, 12, 9] * 8, shared=128)
    for _ in range(2):  # the second time every prefix is in the cache
        answers = await collect_greedy(engine, prompts, zs, max_tokens=24)
        parity = compare(tiny_folder, factors, prompts, zs, answers)
        assert parity.different == ()
        assert len(parity.unmoved) < 8, "the z change nothing"
    stats = await engine.stats()
    assert stats.peak_distinct_z == 16

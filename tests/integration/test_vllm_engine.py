"""vLLM passes what every engine passes, and gives the merged models' tokens.

Only vLLM's own processes show that. One start serves all tests of a form of the linears; a test that needs another
form, or kills the processes, starts them again.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from psutil import STATUS_ZOMBIE, Process
from transformers import PreTrainedTokenizerBase

from zfleet.config.specs import BaseSpec, EngineSpec, FormSpec, VllmSpec
from zfleet.engine.contract import ChoicesRequest, Engine, HiddenRequest
from zfleet.engine.vllm_engine import reading
from zfleet.engine.vllm_engine.engine import VllmEngine
from zfleet.engine.vllm_engine.plan import VllmPlan
from zfleet.engine.vllm_engine.processes import VllmCore
from zfleet.errors import EngineError
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_conformance import EngineConformance
from zfleet.testing.engine_harness import greedy, run, sampled
from zfleet.testing.parity import (
    HIDDEN_TOLERANCE,
    collect_greedy,
    collect_hidden,
    compare,
    hidden_error,
    random_prompts,
    random_z,
)

SLOTS, ROWS = 64, 20
SPEC = EngineSpec(kind="vllm", slots=SLOTS, z_rows=ROWS, vllm=VllmSpec(cache_gib=0.25, batch_tokens=64))
"""Few tokens a step, so that prompts run in pieces."""

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


class KeptCore(VllmCore):
    """Processes that outlive the engines on top of them: starting them takes longer than a test."""

    async def close(self) -> None:
        pass

    async def end(self) -> None:
        await super().close()

    async def fresh(self, tokenizer: PreTrainedTokenizerBase, spec: EngineSpec) -> VllmEngine:
        """An engine with an empty table."""
        await self.call("zfleet_open", os.getpid())
        return VllmEngine(self, tokenizer, spec)


@pytest.fixture(scope="module")
def bundle(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseBundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZFLEET_CACHE", str(tmp_path_factory.mktemp("cache")))
        return pack_base(BaseSpec(model=str(tiny_folder)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def core(bundle: BaseBundle) -> AsyncIterator[KeptCore]:
    core = KeptCore(VllmPlan.unpack(bundle, SPEC))
    await core.start()
    yield core
    await core.end()


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
        return await self._core.fresh(self._tokenizer, EngineSpec(kind="vllm", slots=slots, z_rows=z_rows))

    def make_z(self, seed: int) -> ZVector:
        return random_z(self._factors, seed)


async def test_64_prompts_of_16_experts_in_one_batch_give_the_merged_models_tokens(
    core: KeptCore, bundle: BaseBundle, tiny_folder: Path, factors: Factors
) -> None:
    """With the prefix cache on, and a prefix that prompts of the same and of other experts share."""
    engine = await core.fresh(bundle.tokenizer(), SPEC)
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
    # In pieces of 64 tokens at most, though every prefix is in the cache.
    states = await collect_hidden(engine, prompts, zs)
    assert hidden_error(tiny_folder, factors, prompts, zs, states) < HIDDEN_TOLERANCE


async def test_choices_compute_their_prompt_once(
    core: KeptCore, bundle: BaseBundle, factors: Factors, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await core.fresh(bundle.tokenizer(), SPEC)
    z = await engine.put_z(random_z(factors, 40))
    prompt, *choices = random_prompts(core.plan.vocabulary, [96, 1, 3, 2, 5])
    generate, computed = core.generate, []

    async def noted(tokens: tuple[int, ...], *rest: Any) -> AsyncIterator[Any]:
        async for output in generate(tokens, *rest):
            computed.append(len(tokens) - output.num_cached_tokens)
            yield output

    monkeypatch.setattr(core, "generate", noted)
    scores = await engine.score_choices(ChoicesRequest(prompt, tuple(choices), z))
    assert [len(one) for one in scores] == [1, 3, 2, 5]
    assert computed[0] == 96
    assert sorted(computed[1:]) == [1, 2, 4], "what a block has not room for is computed again, here nothing"


async def test_more_choices_than_vllm_reads_at_once(
    core: KeptCore, bundle: BaseBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS

    assert reading._MOST_TOKENS == MAX_LOGPROB_TOKEN_IDS
    engine = await core.fresh(bundle.tokenizer(), SPEC)
    request = ChoicesRequest((5, 6, 7), tuple((token,) for token in range(5, 25)))
    expected = await engine.score_choices(request)
    monkeypatch.setattr(reading, "_MOST_TOKENS", 3)
    for found, one in zip(await engine.score_choices(request), expected, strict=True):
        assert found == pytest.approx(one, abs=1e-4)


async def test_delta_gives_merged_tokens_and_changes_directions_only_when_asked(
    bundle: BaseBundle, tiny_folder: Path, factors: Factors
) -> None:
    form = FormSpec.model_validate({"delta": {"error": 0.3}})
    core = KeptCore(
        VllmPlan.unpack(bundle, SPEC.model_copy(update={"vllm": SPEC.vllm.model_copy(update={"form": form})}))
    )
    await core.start()
    try:
        engine = await core.fresh(bundle.tokenizer(), core.plan.spec)
        known, other = random_z(factors, 1, spread=0.4), random_z(factors, 2, spread=0.8)
        prompts = random_prompts(core.plan.vocabulary, [3, 31, 70, 18] * 2)
        zs = [known, other] * 4
        # Before directions are chosen, every z is exact.
        answers = await collect_greedy(engine, prompts, zs, max_tokens=24)
        assert compare(tiny_folder, factors, prompts, zs, answers).different == ()
        assert await engine.truncation_errors() == {known.digest: 0.0, other.digest: 0.0}
        long = greedy(prompts[0], known.digest, max_tokens=100)
        under_way = asyncio.create_task(run(engine, long))
        exact = await run(engine, long)
        await engine.choose_directions([known.digest])
        assert (await under_way).token_ids == exact.token_ids, "an answer under way ends as it began"
        errors = await engine.truncation_errors()
        assert 0 < errors[known.digest] <= 0.3
        assert errors[other.digest] == 0.0
        # Now one is computed in few directions, from prefixes of its own, and the other exactly.
        for z, computed in ((known, _merged_with(factors, known, engine)), (other, other)):
            answers = await collect_greedy(engine, prompts, [z] * 8, max_tokens=24)
            assert compare(tiny_folder, factors, prompts, [computed] * 8, answers).different == ()
        await engine.choose_directions([other.digest])
        assert await engine.truncation_errors() == errors, "they change on request alone"
        await engine.choose_directions([known.digest, other.digest], again=True)
        assert all(0 < error <= 0.3 for error in (await engine.truncation_errors()).values())
        # The prefix cache must not hold what the old directions gave.
        for z in (known, other):
            answers = await collect_greedy(engine, prompts, [z] * 8, max_tokens=24)
            computed = _merged_with(factors, z, engine)
            assert compare(tiny_folder, factors, prompts, [computed] * 8, answers).different == ()
    finally:
        await core.end()


def _merged_with(factors: Factors, z: ZVector, engine: VllmEngine) -> ZVector:
    """What the engine computes of a z: 1 in every direction that it leaves out."""
    assert engine._directions is not None
    flat = z.flat(factors.layout)
    kept = torch.where(engine._directions.kept, flat, torch.ones_like(flat))
    values = {name: part.clone() for name, part in factors.layout.split(kept).items()}
    return ZVector(values, factors.base, factors.digest, factors.targets)


async def test_a_killed_process_loses_only_what_was_being_read(
    core: KeptCore, bundle: BaseBundle, factors: Factors
) -> None:
    (scheduler,) = _spawned(Process())
    await _loses_only_what_is_read(core, bundle, factors, scheduler)


@pytest.mark.drill
async def test_a_killed_rank_loses_only_what_was_being_read(bundle: BaseBundle, factors: Factors) -> None:
    before = _spawned(Process())
    two = SPEC.vllm.model_copy(update={"tensor_parallel": 2})
    core = KeptCore(VllmPlan.unpack(bundle, SPEC.model_copy(update={"vllm": two})))
    await core.start()
    try:
        (scheduler,) = set(_spawned(Process())) - set(before)
        await _loses_only_what_is_read(core, bundle, factors, _spawned(scheduler)[1])
    finally:
        await core.end()


async def _loses_only_what_is_read(core: KeptCore, bundle: BaseBundle, factors: Factors, victim: Process) -> None:
    engine = await core.fresh(bundle.tokenizer(), SPEC)
    z = await engine.put_z(random_z(factors, 1))
    prompt = random_prompts(core.plan.vocabulary, [8])[0]
    whole = sampled(prompt, 5, z, max_tokens=200)
    expected = await run(engine, whole)
    state, choices = HiddenRequest(prompt * 30, z), ChoicesRequest(prompt * 5, (prompt, prompt[:1], prompt[2:]), z)
    mean, scores = await engine.hidden_state(state), await engine.score_choices(choices)
    stream = engine.generate(replace(whole, stream=True))
    await anext(stream)
    unread = asyncio.create_task(run(engine, whole))
    reading_state = asyncio.create_task(engine.hidden_state(state))
    reading_scores = asyncio.create_task(engine.score_choices(choices))
    await asyncio.sleep(0)
    victim.kill()
    with pytest.raises(EngineError, match=r"died in the middle of .*send it again"):
        async for _ in stream:
            pass
    later = asyncio.create_task(run(engine, whole))
    other = asyncio.create_task(engine.put_z(random_z(factors, 2)))
    assert await unread == expected, "what nothing was read of is run again, under its own z"
    assert await reading_state == pytest.approx(mean, abs=1e-4)
    for found, one in zip(await reading_scores, scores, strict=True):
        assert found == pytest.approx(one, abs=1e-4)
    assert await run(engine, whole) == expected, "the engine comes back and knows its z"
    assert await later == expected, "who comes while it starts waits, and is answered under its own z"
    assert await run(engine, replace(whole, z_digest=await other)) != expected
    assert (await engine.stats()).known_z == 2


async def test_more_rows_in_use_than_the_table_has_wait(core: KeptCore, bundle: BaseBundle, factors: Factors) -> None:
    engine = await core.fresh(bundle.tokenizer(), SPEC.model_copy(update={"z_rows": 2}))
    digests = [await engine.put_z(random_z(factors, seed)) for seed in range(3)]
    prompt = random_prompts(core.plan.vocabulary, [8])[0]
    requests = [greedy(prompt, z, max_tokens=100) for z in digests]
    answers = asyncio.gather(*(run(engine, request) for request in requests))
    await asyncio.sleep(0)
    assert (await engine.stats()).waiting == 2
    assert len({answer.token_ids for answer in await answers}) == 3
    assert (await engine.stats()).peak_distinct_z == 1


async def test_what_vllm_cannot_run_is_said_before_it_starts(bundle: BaseBundle, tmp_path: Path) -> None:
    narrow = Path(shutil.copytree(bundle.model, tmp_path / "narrow"))
    config = json.loads((narrow / "config.json").read_text())
    (narrow / "config.json").write_text(
        json.dumps({**config, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8})
    )
    with pytest.raises(EngineError, match=r"heads of size 8.*engine: torch"):
        await VllmEngine.open(replace(bundle, model=narrow), SPEC)
    small = SPEC.model_copy(update={"vllm": SPEC.vllm.model_copy(update={"cache_gib": 1e-5})})
    with pytest.raises(EngineError, match=r"cache_gib"):
        await VllmEngine.open(bundle, small)


def _spawned(process: Process) -> list[Process]:
    """vLLM's processes below one of ours; those of engines that ended may not be collected yet."""
    family = [child for child in process.children() if child.status() != STATUS_ZOMBIE]
    return [child for child in family if any("spawn_main" in part for part in child.cmdline())]

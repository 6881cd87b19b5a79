"""One heterogeneous batch equals, row by row, the merged Hugging Face models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.svf_model import SvfModel
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import compare, greedy_answers, random_prompts

EXPERTS = 20
NEW_TOKENS = 24


def test_every_row_of_a_batch_gives_its_merged_models_tokens(
    tiny_model: SvfModel, tiny_folder: Path, tiny_factors: Factors, make_z: Callable[..., ZVector]
) -> None:
    experts = [make_z(seed) for seed in range(EXPERTS)]
    prompts = random_prompts(tiny_model.base.model.config.vocab_size, [3, 31, 7, 18, 5, 44, 12, 9, 26, 4] * 2)
    with SyncEngine(TorchEngine(tiny_model, EngineSpec(slots=EXPERTS, z_rows=EXPERTS + 1))) as engine:
        answers = greedy_answers(engine, prompts, experts, NEW_TOKENS)
        assert engine.stats().peak_distinct_z == EXPERTS
    assert [len(answer) for answer in answers] == [NEW_TOKENS] * EXPERTS
    parity = compare(tiny_folder, tiny_factors, prompts, experts, answers)
    assert parity.different == ()
    assert len(parity.unmoved) < EXPERTS // 2, "the z change next to nothing"


def test_answers_under_swapped_z_are_found_different(
    tiny_model: SvfModel, tiny_folder: Path, tiny_factors: Factors, make_z: Callable[..., ZVector]
) -> None:
    zs = [make_z(1), None, make_z(2), make_z(1)]
    prompts = random_prompts(tiny_model.base.model.config.vocab_size, [9] * len(zs))
    with SyncEngine(TorchEngine(tiny_model)) as engine:
        answers = greedy_answers(engine, prompts, zs, NEW_TOKENS)
        swapped = greedy_answers(engine, prompts, [make_z(1), make_z(1), None, make_z(2)], NEW_TOKENS)
    assert compare(tiny_folder, tiny_factors, prompts, zs, answers).different == ()
    assert compare(tiny_folder, tiny_factors, prompts, zs, swapped).different == (1, 2, 3)

"""One heterogeneous batch equals, row by row, the merged Hugging Face models."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from zfleet.config.specs import EngineSpec
from zfleet.engine.contract import GenerationRequest, SamplingParams
from zfleet.engine.sync import SyncEngine
from zfleet.engine.torch_engine import TorchEngine
from zfleet.models.base import Base
from zfleet.models.svf_model import SvfModel
from zfleet.svf.factors import Factors
from zfleet.svf.linear import merge_into
from zfleet.svf.zvector import ZVector

EXPERTS = 20
NEW_TOKENS = 24
MARGIN = 1e-4


def test_every_row_of_a_batch_gives_its_merged_models_tokens(
    tiny_model: SvfModel, tiny_base: Base, tiny_factors: Factors, make_z: Callable[..., ZVector]
) -> None:
    experts = [make_z(seed) for seed in range(EXPERTS)]
    generator = torch.Generator().manual_seed(1)
    vocabulary = tiny_base.model.config.vocab_size
    prompts = [
        tuple(torch.randint(5, vocabulary, (length,), generator=generator).tolist())
        for length in [3, 31, 7, 18, 5, 44, 12, 9, 26, 4] * (EXPERTS // 10)
    ]
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    with SyncEngine(TorchEngine(tiny_model, EngineSpec(slots=EXPERTS, z_rows=EXPERTS + 1))) as engine:
        digests = [engine.put_z(z) for z in experts]
        requests = [GenerationRequest(p, sampling, z) for p, z in zip(prompts, digests, strict=True)]
        answers = engine.generate(requests)
        assert engine.stats().peak_distinct_z == EXPERTS
    different = 0
    for z, prompt, (answer,) in zip(experts, prompts, answers, strict=True):
        different += _differs(_merged(tiny_base, tiny_factors, z), prompt, answer.token_ids)
    base = copy.deepcopy(tiny_base.model)
    assert different == 0
    assert any(_differs(base, p, a.token_ids) for p, (a,) in zip(prompts, answers, strict=True)), "the z change nothing"


def _merged(base: Base, factors: Factors, z: ZVector) -> torch.nn.Module:
    model = copy.deepcopy(base.model)
    merge_into(model, dict(factors.matrices), dict(z.values))
    return model


def _differs(model: torch.nn.Module, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> bool:
    """Whether the model would have chosen another token somewhere, by more than the margin."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    chosen = logits[torch.arange(len(tokens)), torch.tensor(tokens)]
    return bool((logits.max(-1).values - chosen > MARGIN).any())

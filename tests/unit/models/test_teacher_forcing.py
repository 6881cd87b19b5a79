"""What a model says of given completions: the same in every family, and however many of them share a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig

from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import ScoreRequest
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import SpecError
from zfleet.models import shared_prompt
from zfleet.models.base import load_base
from zfleet.models.completions import Row, lay_out
from zfleet.models.matrices import target_matrices
from zfleet.models.recompute import checkpoint_layers
from zfleet.models.shared_prompt import attend_masked
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_hidden, completion_logprobs, completion_values
from zfleet.models.token_values import Divergence, Selection
from zfleet.rl.lora import LoraWeights
from zfleet.rl.weights import SvfWeights
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors
from zfleet.testing.parity import random_prompts, random_z
from zfleet.testing.tiny_bases import FAMILIES, save_tiny

PROMPTS = random_prompts(60, [6, 1, 9])
COMPLETIONS = [
    random_prompts(60, lengths, seed=number) for number, lengths in enumerate([[5, 1, 8], [3], [2, 2, 1, 7]])
]
"""Groups of three, one and four: completions of one token, and of other lengths."""

GROUPS = [Row(prompt, completions) for prompt, completions in zip(PROMPTS, COMPLETIONS, strict=True)]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SvfModel:
    folder = save_tiny(request.param, tmp_path_factory.mktemp(request.param))
    return _open(folder, tmp_path_factory.mktemp("factors"))


def test_logprobs_are_those_of_the_models_own_logits(model: SvfModel) -> None:
    """The plain pass of the base computes logits; nothing may be added to those of the head."""
    found = completion_logprobs(model, batch := lay_out(_apart(GROUPS), model), None, 0.7)
    for row, own in zip(_apart(GROUPS), batch.of_each(found), strict=True):
        (completion,) = row.completions
        ids = torch.tensor([[*row.prompt, *completion]])
        with torch.no_grad():
            logits = model.base.model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1].float()
        expected = torch.log_softmax(logits / 0.7, -1)[torch.arange(len(completion)), torch.tensor(completion)]
        torch.testing.assert_close(own, expected, atol=2e-5, rtol=1e-5)


def test_a_prompt_that_is_shared_gives_the_values_and_the_gradient_of_prompts_apart(model: SvfModel) -> None:
    together, apart = _values_and_gradient(model, GROUPS), _values_and_gradient(model, _apart(GROUPS))
    assert float(apart[1].abs().max()) > 1e-2, "there is nothing to compare"
    _assert_close(together, apart)


def test_prompts_copied_for_a_part_of_the_completions_at_a_time_give_the_same(
    tiny_model: SvfModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _values_and_gradient(tiny_model, GROUPS)
    for tokens in (1, 60):
        monkeypatch.setattr(shared_prompt, "_COPIED_TOKENS", tokens)
        _assert_close(_values_and_gradient(tiny_model, GROUPS), whole)


def test_recomputed_layers_share_prompts_too(tiny_folder: Path, tiny_factors: Factors) -> None:
    model = SvfModel(load_base(tiny_folder), tiny_factors)
    kept = _values_and_gradient(model, GROUPS)
    checkpoint_layers(model)
    assert all(map(torch.equal, _values_and_gradient(model, GROUPS), kept))


_LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(groups=st.lists(st.tuples(st.integers(1, 12), _LENGTHS), min_size=1, max_size=4), seed=st.integers(0, 100))
def test_rows_of_any_shape_are_rows_apart(tiny_model: SvfModel, groups: list[tuple[int, list[int]]], seed: int) -> None:
    """Also completions without a token, and groups of one."""
    rows = [
        Row(random_prompts(60, [prompt], seed)[0], random_prompts(60, completions, seed + number + 1))
        for number, (prompt, completions) in enumerate(groups)
    ]
    _assert_close(_values_and_gradient(tiny_model, rows), _values_and_gradient(tiny_model, _apart(rows)))


def test_tokens_of_several_selections_are_those_of_one(tiny_model: SvfModel) -> None:
    batch = lay_out(GROUPS, tiny_model)
    with torch.no_grad():
        base = completion_hidden(tiny_model, batch, None)
        z = random_z(tiny_model.factors, 1).flat(tiny_model.layout).unsqueeze(0)
        mine = (batch.owners == 0).nonzero().squeeze(-1)
        others = (batch.owners != 0).nonzero().squeeze(-1)
        first, second = completion_values(
            tiny_model,
            batch,
            z,
            [Selection(mine, 0.5), Selection(others, 2.0, Divergence(base, "base", learned=False))],
        )
        (whole,) = completion_values(
            tiny_model, batch, z, [Selection(None, 2.0, Divergence(base, "base", learned=True))]
        )
        torch.testing.assert_close(first.logprobs, completion_logprobs(tiny_model, batch, z, 0.5)[mine])
    assert first.divergence is None
    assert second.divergence is not None
    assert whole.divergence is not None
    torch.testing.assert_close(second.logprobs, whole.logprobs[others])
    torch.testing.assert_close(second.divergence, whole.divergence[others])


def test_the_last_token_of_a_completion_does_not_go_through_the_model(tiny_model: SvfModel) -> None:
    batch = lay_out([Row((7, 8, 9), ((5,), (6, 7), (5,)))], tiny_model)
    assert batch.ids.tolist() == [[7, 8, 9, 6]]
    assert batch.shared is None, "a single completion with tokens is a causal sequence"
    assert batch.sources.tolist() == [2, 2, 3, 2]
    assert batch.targets.tolist() == [5, 6, 7, 5]


@pytest.mark.parametrize("grouped", [False, True])
def test_fewer_key_value_heads_are_those_repeated(grouped: bool) -> None:
    """As a GPU wants them and as a CPU does, by the formula."""
    chance = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 5, 8, generator=chance) for heads in (6, 2, 2))
    mask = torch.where(torch.rand(2, 1, 5, 5, generator=chance) < 0.5, 0.0, -torch.inf)
    mask[..., 0] = 0
    found = attend_masked(query, key, value, mask, 0.3, grouped=grouped)
    key, value = (states.repeat_interleave(3, 1) for states in (key, value))
    expected = torch.softmax(0.3 * query @ key.transpose(2, 3) + mask, -1) @ value
    torch.testing.assert_close(found, expected)


def test_a_base_with_a_window_runs_rows_apart_as_transformers_does(tmp_path: Path) -> None:
    folder = save_tiny("mistral", tmp_path / "base")
    config = MistralConfig.from_pretrained(folder)
    config.sliding_window = 6
    config.save_pretrained(folder)
    model = _open(folder, tmp_path / "factors")
    assert model.cost.window == 6
    row = Row(PROMPTS[2], (COMPLETIONS[0][2],))
    ids = torch.tensor([[*row.prompt, *row.completions[0]]])
    plain = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = plain(input_ids=ids).logits[0, len(row.prompt) - 1 : -1]
    expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(row.completions[0]).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(completion_logprobs(model, lay_out([row], model), None), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def with_head(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SvfModel]:
    """A base whose output head is among the targets."""
    folder = save_tiny("llama", tmp_path_factory.mktemp("head"))
    return folder, _open(folder, tmp_path_factory.mktemp("factors"), r".*(proj|lm_head)")


def test_a_head_with_a_z_of_each_row_scores_each_row_under_its_own(with_head: tuple[Path, SvfModel]) -> None:
    _, model = with_head
    zs = [random_z(model.factors, seed) for seed in (1, 2)]
    rows = _apart(GROUPS)[:3]
    with SyncEngine(TorchEngine(model)) as engine:
        digests = [engine.put_z(z) for z in zs]
        found = engine.score(
            [ScoreRequest(tuple(row.prompt), tuple(row.completions[0]), digest) for row in rows for digest in digests]
        )
    for (row, z), own in zip([(row, z) for row in rows for z in zs], found, strict=True):
        ids = torch.tensor([[*row.prompt, *row.completions[0]]])
        with torch.no_grad():
            logits = model.logits(ids, z.flat(model.layout).unsqueeze(0))[0, len(row.prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1)[torch.arange(len(own)), torch.tensor(row.completions[0])]
        assert own == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_learner_refuses_to_train_the_head(with_head: tuple[Path, SvfModel]) -> None:
    folder, model = with_head
    with pytest.raises(SpecError, match="select lm_head, the output head") as refused:
        SvfWeights(model)
    assert "base.targets" in refused.value.remedy
    with pytest.raises(SpecError, match="select lm_head, the output head"):
        LoraWeights(load_base(folder), ".*head", rank=2, alpha=4)


def _assert_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5 * max([1.0, *other.abs().flatten().tolist()]))


def _open(folder: Path, cache: Path, targets: str = "all") -> SvfModel:
    base = load_base(folder)
    return SvfModel(base, FactorCache(cache).get(target_matrices(folder, base.fingerprint, targets)))


def _apart(rows: Sequence[Row]) -> list[Row]:
    """Each completion in a row of its own."""
    return [replace(row, completions=(completion,)) for row in rows for completion in row.completions]


def _values_and_gradient(model: SvfModel, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Log-probabilities and divergences [2, N] of all tokens, and the gradient [R] of a weighted sum of them."""
    batch = lay_out(rows, model)
    z = random_z(model.factors, 3).flat(model.layout).requires_grad_()
    with torch.no_grad():
        divergence = Divergence(completion_hidden(model, batch, None), "policy", learned=True)
    (found,) = completion_values(model, batch, z.expand(len(rows), -1), [Selection(None, 0.8, divergence)])
    assert found.divergence is not None
    values = torch.stack([found.logprobs, found.divergence])
    weights = torch.linspace(-1, 1, values.numel()).view(values.shape)
    return values.detach(), torch.autograd.grad((weights * values).sum(), z)[0]

"""Choosing tokens against an independent reference, and text that streams whole characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from zfleet.engine.torch_engine.sampling import _LIKELIEST, Truncation, sample, uniforms
from zfleet.engine.torch_engine.text import TextStream

BELOW_ONE = float(np.nextafter(1.0, 0.0))
GRID = 2000
few = settings(max_examples=40, deadline=None, derandomize=True)
logit_rows = st.lists(st.floats(-6, 6, width=32), min_size=2, max_size=8)
texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="�"), max_size=12)

Floats = NDArray[np.float64]


def _nuclei(top_p: Tensor) -> Truncation:
    return Truncation(torch.zeros(len(top_p)), torch.zeros(len(top_p), dtype=torch.long), top_p)


def _draw(
    logits: Sequence[float], temperature: float, top_p: float, draws: Floats, top_k: int = 0, min_p: float = 0.0
) -> list[int]:
    """One row for each number in ``draws``."""
    count = len(draws)
    rows = torch.tensor(logits, dtype=torch.float32).expand(count, -1)
    truncation = Truncation(*(torch.full((count,), one) for one in (min_p, top_k, top_p)))
    drawn: list[int] = sample(rows, torch.full((count,), temperature), truncation, torch.from_numpy(draws)).tolist()
    return drawn


def _reference(logits: Sequence[float], temperature: float, top_p: float, top_k: int = 0, min_p: float = 0.0) -> Floats:
    """Probabilities: softmax at a temperature, min_p, top_k, the smallest nucleus of what stays, renormalised."""
    scaled = np.array(logits, np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    if top_k or min_p:
        p[p < np.float32(min_p) * p.max()] = 0
        p[sorted(range(len(p)), key=lambda t: (-p[t], t))[top_k or len(p) :]] = 0
        p /= p.sum()
    kept, mass = np.zeros(len(p)), 0.0
    for token in sorted(range(len(p)), key=lambda t: (-p[t], t)):
        if mass >= top_p:
            break
        kept[token] = p[token]
        mass += p[token]
    kept /= kept.sum()
    return kept


@few
@given(logit_rows, st.sampled_from([0.3, 0.7, 1.0, 2.5]), st.sampled_from([1.0, 0.95, 0.61, 0.2]))
def test_frequencies_are_the_probabilities(logits: list[float], temperature: float, top_p: float) -> None:
    expected = _reference(logits, temperature, top_p)
    drawn = _draw(logits, temperature, top_p, (np.arange(GRID) + 0.5) / GRID)
    counts = np.bincount(drawn, minlength=len(logits))
    # On a grid the inverse of the distribution hits each token as often as its mass says, up to its two ends.
    assert np.abs(counts - GRID * expected).max() <= 1.001
    assert not counts[expected == 0].any()


@few
@given(logit_rows, st.sampled_from([0, 1, 2, 5]), st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([1.0, 0.7]))
def test_truncated_frequencies_are_the_probabilities(
    logits: list[float], top_k: int, min_p: float, top_p: float
) -> None:
    expected = _reference(logits, 0.9, top_p, top_k, min_p)
    drawn = _draw(logits, 0.9, top_p, (np.arange(GRID) + 0.5) / GRID, top_k, min_p)
    counts = np.bincount(drawn, minlength=len(logits))
    assert np.abs(counts - GRID * expected).max() <= 1.001
    assert not counts[expected == 0].any()


@few
@given(logit_rows, st.floats(0, BELOW_ONE))
def test_greedy_and_narrow_nuclei_take_the_likeliest(logits: list[float], draw: float) -> None:
    best = int(torch.tensor(logits).argmax())
    draws = np.array([draw])
    assert _draw(logits, 0.0, 1.0, draws) == [best]
    assert _draw(logits, 0.0, 0.5, draws) == [best]
    assert _draw(logits, 1.0, 1e-9, draws) == [best]


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("draw", [0.0, 5e-324, BELOW_ONE])
def test_edges_never_give_a_token_without_mass(draw: float, top_p: float) -> None:
    nothing = -float("inf")
    rows = [[nothing, 1.0, nothing, 2.0, nothing], [nothing, nothing, 0.0], [0.0, nothing], [3.0, -900.0, 2.0, -900.0]]
    for logits in rows:
        (token,) = _draw(logits, 1.0, top_p, np.array([draw]))
        assert _reference(logits, 1.0, top_p)[token] > 0
    wide = torch.randn(50_000, generator=torch.Generator().manual_seed(0)).tolist()
    (token,) = _draw([*wide, nothing], 1.0, top_p, np.array([draw]))
    assert 0 <= token < 50_000


def test_a_row_draws_the_same_in_any_company() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(60, 7, generator=generator)
    draws = torch.rand(60, generator=generator, dtype=torch.float64)
    temperature = torch.tensor([0.0, 0.5, 1.0, 1.5]).repeat(15)
    top_p = torch.tensor([1.0, 0.9, 0.4]).repeat_interleave(20)
    truncation = Truncation(torch.tensor([0.0, 0.0, 0.2]).repeat(20), torch.tensor([0, 0, 0, 0, 3]).repeat(12), top_p)
    together = sample(logits, temperature, truncation, draws)
    for row in range(60):
        one = slice(row, row + 1)
        alone = sample(logits[one], temperature[one], truncation.rows(torch.tensor([row])), draws[one])
        assert together[row] == alone[0], f"row {row}, temperature {temperature[row]}, top_p {top_p[row]}"


@pytest.mark.parametrize("vocabulary", [60, 3 * _LIKELIEST + 17, 49_152])
@pytest.mark.parametrize("flat", [1.0, 0.05])
def test_a_wide_vocabulary_has_the_same_nucleus_sorted_in_part_or_whole(vocabulary: int, flat: float) -> None:
    """Also where many tokens are equally likely, which then stay by their ids."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (4 * flat * torch.randn(12, vocabulary, generator=generator)).round(decimals=1)
    top_p = torch.tensor([0.02, 0.5, 0.9, 0.99]).repeat(3)
    draws = torch.rand(12, generator=generator, dtype=torch.float64)
    drawn = sample(logits, torch.ones(12), _nuclei(top_p), draws)
    probabilities = torch.softmax(logits, -1)
    for row in range(12):
        mass, order = probabilities[row].sort(descending=True, stable=True)
        before = mass.double().cumsum(-1) - mass.double()
        kept = int((before < top_p[row]).sum())
        cumulative = mass[:kept].double().cumsum(-1)
        expected = int(torch.searchsorted(cumulative, draws[row] * cumulative[-1], right=True))
        assert drawn[row] == order[expected]
        one = slice(row, row + 1)
        assert drawn[row] == sample(logits[one], torch.ones(1), _nuclei(top_p[one]), draws[one])


@pytest.mark.parametrize(("top_k", "min_p"), [(600, 0.0), (40, 0.0), (0, 0.001), (900, 0.01)])
def test_a_wide_vocabulary_is_truncated_alike_sorted_in_part_or_whole(top_k: int, min_p: float) -> None:
    logits = (torch.randn(49_152, generator=torch.Generator().manual_seed(1))).round(decimals=2).tolist()
    draws = (np.arange(40) + 0.5) / 40
    drawn = _draw(logits, 1.0, 0.95, draws, top_k, min_p)
    expected = _reference(np.array(logits, np.float32).tolist(), 1.0, 0.95, top_k, min_p)
    assert all(expected[token] > 0 for token in drawn)
    order = np.argsort(-np.array(logits), kind="stable")
    reference = order[np.searchsorted(expected[order].cumsum(), draws)]
    assert [logits[token] for token in drawn] == pytest.approx([logits[token] for token in reference], abs=0.02)


def test_random_numbers_depend_on_seed_and_index_alone() -> None:
    whole = uniforms(7, 2, 50)
    assert whole.tolist() == uniforms(7, 2, 50).tolist()
    assert whole[:20].tolist() == uniforms(7, 2, 20).tolist()
    assert 0 <= whole.min() < whole.max() < 1
    others = [uniforms(seed, index, 50).tolist() for seed, index in ((8, 2), (7, 3), (-1, 2), (2**64 - 7, 2))]
    assert all(other != whole.tolist() for other in others)
    assert uniforms(None, 0, 5).tolist() != uniforms(None, 0, 5).tolist()
    assert uniforms(2**64 - 1, 0, 3).tolist() == uniforms(-1, 0, 3).tolist()


# Text


@pytest.fixture(scope="module")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token: a character of several bytes is split over tokens."""
    vocabulary = {symbol: place for place, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _pieces(stream: TextStream, tokens: Sequence[int], step: int = 1) -> list[str]:
    pieces = []
    for start in range(0, len(tokens), step):
        pieces.append(stream.push(tokens[start : start + step]))
        if stream.stopped:
            return pieces
    return [*pieces, stream.flush()]


@few
@given(texts, texts, st.integers(1, 5))
def test_a_stream_is_the_whole_text_in_whole_characters(
    byte_tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, step: int
) -> None:
    before, tokens = (byte_tokenizer(text)["input_ids"] for text in (prompt, answer))
    pieces = _pieces(TextStream(byte_tokenizer, before, ()), tokens, step)
    assert "".join(pieces) == answer
    assert not any("�" in piece for piece in pieces)


@few
@given(st.lists(st.sampled_from([0x41, 0x20, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0xFF]), max_size=12))
def test_bytes_that_are_no_text_stream_as_they_decode(
    byte_tokenizer: PreTrainedTokenizerFast, content: list[int]
) -> None:
    vocabulary = byte_tokenizer.get_vocab()
    tokens = [vocabulary[_symbol(byte)] for byte in content]
    whole = byte_tokenizer.decode(tokens)
    assert "".join(_pieces(TextStream(byte_tokenizer, (), ()), tokens)) == whole


def _symbol(byte: int) -> str:
    """What the byte-level alphabet writes for a byte: itself where it can be seen, else U+0100 and on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return chr(byte) if byte in seen else chr(0x100 + [b for b in range(256) if b not in seen].index(byte))


@few
@given(st.text("abé", max_size=10), st.lists(st.text("abé", min_size=1, max_size=3), min_size=1, max_size=3))
def test_a_stop_string_ends_the_answer_wherever_tokens_split(
    byte_tokenizer: PreTrainedTokenizerFast, answer: str, stops: list[str]
) -> None:
    expected, met = answer, False
    for length in range(len(answer) + 1):
        hits = [at for at in (answer[:length].find(stop) for stop in stops) if at >= 0]
        if hits:
            expected, met = answer[: min(hits)], True
            break
    stream = TextStream(byte_tokenizer, byte_tokenizer("x")["input_ids"], stops)
    pieces = _pieces(stream, byte_tokenizer(answer)["input_ids"])
    assert stream.stopped == met
    assert "".join(pieces) == expected, "a piece of a stop string was shown, or text was lost"
    assert not met or stream.flush() == ""


def test_text_is_shown_as_soon_as_no_stop_string_can_begin_in_it(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(byte_tokenizer, (), ("END",))
    shown = [stream.push([token]) for token in byte_tokenizer("aENxEND")["input_ids"]]
    assert shown == ["a", "", "", "ENx", "", "", ""]
    assert stream.stopped


def test_a_held_back_beginning_of_a_stop_string_is_flushed(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(byte_tokenizer, (), ("END",))
    assert [stream.push([token]) for token in byte_tokenizer("aEN")["input_ids"]] == ["a", "", ""]
    assert stream.flush() == "EN"
    assert not stream.stopped


def test_the_space_before_the_first_word_is_kept() -> None:
    words = {"▁one": 0, "▁two": 1, "▁three": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="▁one"))
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert _pieces(TextStream(fast, (0,), ()), [1, 2]) == [" two", " three", ""]
    assert "".join(_pieces(TextStream(fast, (), ()), [1, 2])) == "two three"

"""The bytes of tokens: put together they are the text, streamed or whole, of every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from zfleet.engine.torch_engine.text import TextStream
from zfleet.models.lab.tokenizer import build_tokenizer
from zfleet.models.tokens import TokenBytes, text_tokens, token_bytes
from zfleet.testing.tokenizers import TOKENIZERS, byte_fallback, byte_level

STORIES = Path(__file__).parents[4] / "shared" / "data" / "stories260k"

few = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module", params=[*TOKENIZERS, "stories"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    if request.param != "stories":
        return TOKENIZERS[request.param]()
    if not STORIES.is_dir():
        pytest.skip("the data folder has no stories260k")
    opened: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(STORIES)
    return opened


def streamed(tokenizer: PreTrainedTokenizerBase, prompt: list[int], tokens: list[int], step: int) -> str:
    stream = TextStream(tokenizer, prompt, ())
    pieces = [stream.push(tokens[start : start + step]) for start in range(0, len(tokens), step)]
    return "".join(pieces) + stream.flush()


def ids(data: st.DataObject, tokenizer: PreTrainedTokenizerBase, longest: int) -> list[int]:
    """Some that the vocabulary does not have, too: a base's embedding may have more entries than its tokenizer."""
    return data.draw(st.lists(st.integers(0, len(tokenizer) + 3), max_size=longest))


@few
@given(st.data())
def test_streamed_is_whole_and_its_bytes_are_those_of_its_tokens(
    tokenizer: PreTrainedTokenizerBase, data: st.DataObject
) -> None:
    prompt, tokens = ids(data, tokenizer, 3), ids(data, tokenizer, 12)
    whole = streamed(tokenizer, prompt, tokens, 100)
    assert streamed(tokenizer, prompt, tokens, data.draw(st.integers(1, 3))) == whole
    piece = token_bytes(tokenizer).of_answer(prompt)
    assert b"".join(map(piece, tokens)).decode(errors="replace") == whole


@few
@given(st.data())
def test_text_is_what_the_tokenizer_decodes(tokenizer: PreTrainedTokenizerBase, data: st.DataObject) -> None:
    """Of tokens that are text; of others it may write one mark for several bytes, and a whole answer another way."""
    tokens = ids(data, tokenizer, 12)
    decoded = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if "\ufffd" not in decoded:
        assert streamed(tokenizer, [], tokens, 1) == decoded


def test_the_byte_of_a_space_is_left_out_at_the_beginning_as_the_tokenizer_does() -> None:
    tokenizer = byte_fallback()
    vocabulary = tokenizer.get_vocab()
    space, letter = vocabulary["<0x20>"], vocabulary["<0x61>"]
    for tokens in ([space], [space, letter], [space, space, letter], [letter, space]):
        assert streamed(tokenizer, [], tokens, 1) == tokenizer.decode(tokens)


@few
@given(st.text("the aéb.日€\n", max_size=20))
def test_a_text_comes_back(text: str) -> None:
    for tokenizer in (byte_level(), byte_fallback()):
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert streamed(tokenizer, [], tokens, 1) == text, "the answer's own text"


def test_a_byte_is_itself_and_a_word_keeps_its_space() -> None:
    fallback, level = byte_fallback(), byte_level()
    words, symbols = fallback.get_vocab(), level.get_vocab()
    assert TokenBytes(fallback).of(words["<0xE2>"]) == b"\xe2"
    assert TokenBytes(fallback).of(words["▁the"]) == b" the"
    assert TokenBytes(fallback).of(words["▁the"], first=True) == b"the"
    assert TokenBytes(fallback).of(words["</s>"]) == b""
    assert TokenBytes(level).of(symbols["âĤ"]) == b"\xe2\x82"
    assert TokenBytes(level).of(symbols["Ġthe"]) == b" the"
    assert TokenBytes(level).of(symbols["  日"]) == "  日".encode()


@pytest.mark.parametrize("token", [-1, 10**6, 2**32, 2**70])
def test_what_is_no_token_has_no_bytes(token: int) -> None:
    assert TokenBytes(byte_level()).of(token) == b""


def test_an_answer_that_is_cut_in_a_character_after_a_newline() -> None:
    tokenizer = byte_fallback()
    tokens = [tokenizer.get_vocab()[word] for word in ("a", "<0x0A>", "<0xE2>", "<0x82>")]
    assert streamed(tokenizer, [1], tokens, 1) == streamed(tokenizer, [1], tokens, 100) == "a\n\ufffd"


def test_a_text_that_begins_with_bos_gets_no_second_one() -> None:
    lab = build_tokenizer()
    assert text_tokens(lab, "<bos>a") == text_tokens(lab, "a")
    assert text_tokens(lab, "<bos><bos>a") == (lab.bos_token_id, *text_tokens(lab, "a"))

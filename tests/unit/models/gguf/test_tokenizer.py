"""The tokenizer that is rebuilt from a GGUF file reads texts as the original does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from transformers import PreTrainedTokenizerBase

from zfleet.errors import BaseModelError
from zfleet.models.base import load_tokenizer
from zfleet.models.gguf.convert import convert
from zfleet.testing.gguf_files import Tensors, save_gguf
from zfleet.testing.tiny_bases import save_tiny
from zfleet.testing.tokenizers import byte_fallback, byte_level

Refusal = Callable[[Path], BaseModelError]

TEXTS = ("the  café cost 12 €", " the\n\tthe", "日本  日", "a", "e\u0301")
TEMPLATE = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"


def rebuilt(tokenizer: PreTrainedTokenizerBase, folder: Path, **options: Any) -> PreTrainedTokenizerBase:
    """Write a tokenizer into a GGUF file, convert the file, and load the tokenizer of the base."""
    base = save_tiny("llama", folder / "base", tokenizer=tokenizer)
    return load_tokenizer(convert(save_gguf(base, folder / "base.gguf", **options)))


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    tokens: list[int] = tokenizer(text)["input_ids"]
    return tokens


def test_byte_level(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = TEMPLATE
    made = rebuilt(tokenizer, tmp_path)
    assert made.get_vocab() == tokenizer.get_vocab()
    assert made.added_tokens_decoder.keys() == tokenizer.added_tokens_decoder.keys()
    assert made.eos_token == "<end>"
    assert made.bos_token is None
    for text in TEXTS:
        assert ids(made, text) == ids(tokenizer, text)
        assert made.decode(ids(made, text)) == text
    turns = [{"role": "user", "content": "hi"}]
    assert made.apply_chat_template(turns, tokenize=False) == "<user>hi"


def test_a_base_without_a_chat_template_has_none(llama: Path, tmp_path: Path) -> None:
    assert load_tokenizer(convert(save_gguf(llama, tmp_path / "base.gguf"))).chat_template is None


def test_byte_fallback(tmp_path: Path) -> None:
    tokenizer = byte_fallback()
    made = rebuilt(tokenizer, tmp_path)
    assert made.get_vocab() == tokenizer.get_vocab()
    for text in ("the café", "a  the.", "日"):
        # SentencePiece models begin with BOS, unless their file says otherwise.
        assert ids(made, text) == [tokenizer.bos_token_id, *ids(tokenizer, text)]


@pytest.mark.parametrize("begins", [False, True])
def test_a_file_says_how_texts_begin_and_end(begins: bool, tmp_path: Path) -> None:
    def keys(writer: GGUFWriter) -> None:
        writer.add_add_bos_token(begins)
        writer.add_add_eos_token(True)

    tokenizer = byte_fallback()
    made = rebuilt(tokenizer, tmp_path, keys=keys)
    begin = [tokenizer.bos_token_id] if begins else []
    assert ids(made, "the a") == [*begin, *ids(tokenizer, "the a"), tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["a", "ĠĠ", "Ġ123"]),
        ("smollm", ["a", "ĠĠĠ", "1", "2", "3"]),
        ("llama-bpe", ["a", "ĠĠ", "Ġ", "123"]),
        ("qwen2", ["a", "ĠĠ", "Ġ", "1", "2", "3"]),
    ],
)
def test_each_split_reads_as_its_models_do(pre: str, pieces: list[str], tmp_path: Path) -> None:
    made = rebuilt(byte_level(), tmp_path, pre=pre)
    split = made.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a   123")
    assert [piece for piece, _ in split] == pieces
    composed = made.convert_ids_to_tokens(ids(made, "e\u0301")) == made.convert_ids_to_tokens(ids(made, "\u00e9"))
    assert composed == (pre == "qwen2")


def test_special_tokens_that_the_model_does_not_have_are_not_added(tmp_path: Path) -> None:
    made = rebuilt(byte_level(), tmp_path)
    assert "<|endoftext|>" not in made.get_vocab()
    assert len(made) == len(byte_level())


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("tokenizer.ggml.model", "bert", "tokenizer.ggml.model is 'bert'; supported are 'gpt2' and 'llama'"),
        ("tokenizer.ggml.model", None, "tokenizer.ggml.model is None"),
        ("tokenizer.ggml.pre", "viking", "tokenizer.ggml.pre is 'viking'; supported are gpt-2,"),
        ("tokenizer.ggml.tokens", None, "KeyError: 'tokens'"),
        ("tokenizer.ggml.token_type", None, "KeyError: 'token_type'"),
        ("tokenizer.ggml.token_type", [1, 1], "ValueError: zip()"),
        ("tokenizer.ggml.merges", ["Ġ Ġ", "nothing like"], "out of vocabulary"),
        ("tokenizer.ggml.eos_token_id", 5_000, "IndexError"),
    ],
)
def test_a_tokenizer_that_cannot_be_rebuilt(
    key: str, value: Any, error: str, refusal: Refusal, llama: Path, tmp_path: Path
) -> None:
    def change(writer: GGUFWriter) -> None:
        writer.kv_data[0].pop(key, None)
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writer.add_uint32(key, value)

    refused = refusal(save_gguf(llama, tmp_path / "bad.gguf", keys=change))
    assert "bad.gguf cannot be rebuilt" in refused.message
    assert error in refused.message


def test_a_word_without_its_space(refusal: Refusal, tmp_path: Path) -> None:
    base = save_tiny("llama", tmp_path / "base", tokenizer=byte_fallback())
    bad = save_gguf(base, tmp_path / "bad.gguf", keys=lambda writer: writer.add_add_space_prefix(False))
    assert "puts no space before the first word" in refusal(bad).message


def test_more_tokens_than_the_model_has(refusal: Refusal, llama: Path, tmp_path: Path) -> None:
    def cut(tensors: Tensors) -> None:
        for name in ("token_embd.weight", "output.weight"):
            tensors[name] = np.ascontiguousarray(tensors[name][0][:-1]), "F32"

    tokens = len(byte_level())
    error = refusal(save_gguf(llama, tmp_path / "bad.gguf", tensors=cut))
    assert f"it has {tokens} tokens, the model {tokens - 1}" in error.message


def test_a_tokenizer_that_loses_letters(refusal: Refusal, tmp_path: Path) -> None:
    def forget(writer: GGUFWriter) -> None:
        key = "tokenizer.ggml.tokens"
        words = writer.kv_data[0].pop(key).value
        writer.add_array(key, ["<mark>" if word == "F" else word for word in words])

    base = save_tiny("llama", tmp_path / "base", tokenizer=byte_level())
    error = refusal(save_gguf(base, tmp_path / "bad.gguf", keys=forget))
    assert "'The capital of France is Paris.' comes back as" in error.message

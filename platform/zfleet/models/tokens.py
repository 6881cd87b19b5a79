"""Between text and tokens: the ids of a text, and the bytes that each token of an answer stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Tokenize a text with the special tokens that the tokenizer adds; a text that begins with BOS gets no second."""
    ids = tokenizer(text)["input_ids"]
    bos, word = tokenizer.bos_token_id, tokenizer.bos_token
    doubled = bos is not None and text.startswith(word) and ids[:2] == [bos, bos]
    return tuple(ids[1:] if doubled else ids)


class TokenBytes:
    """The bytes of UTF-8 that each token of one tokenizer stands for.

    Special tokens and ids without a token stand for none. A text may be split inside a character, so the bytes of one
    token need not be text.

    Args:
        tokenizer: A byte-level one, one with byte fallback, or one whose tokens are whole characters.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self._texts = set(tokenizer.get_vocab().values()) - special
        kinds = set(_decoders(tokenizer))
        self._alphabet = byte_alphabet() if "ByteLevel" in kinds else None
        self._has_bytes = "ByteFallback" in kinds
        self._known: dict[tuple[int, bool], bytes] = {}

    def is_text(self, token: int) -> bool:
        """Whether a token is part of texts: it is there, and is not a special one."""
        return token in self._texts

    def of(self, token: int, *, first: bool = False) -> bytes:
        """Return the bytes of a token.

        Args:
            token: Its id.
            first: It begins the text: tokenizers that write a space with the next word leave it out there.
        """
        key = (token, first)
        if key not in self._known:
            self._known[key] = self._find(token, first)
        return self._known[key]

    def of_answer(self, prompt: Iterable[int]) -> AnswerBytes:
        """Begin an answer.

        Args:
            prompt: Ids of what the answer follows.
        """
        return AnswerBytes(self, any(map(self.is_text, prompt)))

    def _find(self, token: int, first: bool) -> bytes:
        if not self.is_text(token):
            return b""
        word = str(self._tokenizer.convert_ids_to_tokens(token))
        if self._alphabet is not None:
            return _bytes_of(word, self._alphabet)
        byte = _BYTE.fullmatch(word) if self._has_bytes else None
        # A byte that is a character alone is treated as text: the byte of a space, too, is left out at the beginning.
        if byte and not (first and int(byte[1], 16) < 0x80):
            return bytes([int(byte[1], 16)])
        alone = self._decode([token])
        # A token's text depends on text before it: decode the token twice, and take what the second one adds.
        return (alone if first else self._decode([token, token])[len(alone) :]).encode()

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class AnswerBytes:
    """The bytes of an answer's tokens, which depend on whether there is text before them.

    Args:
        tokens: Of the tokenizer.
        begun: Whether there is text before the answer.
    """

    def __init__(self, tokens: TokenBytes, begun: bool) -> None:
        self._tokens = tokens
        self._begun = begun

    def __call__(self, token: int) -> bytes:
        """Return the bytes of the answer's next token. Call it with each of them in order."""
        piece = self.of_other(token)
        self._begun = self._begun or self._tokens.is_text(token)
        return piece

    def of_other(self, token: int) -> bytes:
        """Return the bytes that a token would have in the place of the next one."""
        return self._tokens.of(token, first=not self._begun)


@lru_cache(8)
def token_bytes(tokenizer: PreTrainedTokenizerBase) -> TokenBytes:
    """Return the bytes of a tokenizer's tokens, found once for all answers."""
    return TokenBytes(tokenizer)


@lru_cache(1)
def byte_alphabet() -> Mapping[str, int]:
    """Map characters of byte-level tokenizers to bytes: a visible byte is its own character, others are U+0100 and on.

    Source: ``bytes_to_unicode`` of GPT-2.
    """
    hidden = [byte for byte in range(256) if byte not in _VISIBLE]
    return {chr(byte): byte for byte in _VISIBLE} | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


def _bytes_of(word: str, alphabet: Mapping[str, int]) -> bytes:
    # Tokens that were added by hand are plain text, and may hold characters outside the alphabet.
    if any(symbol not in alphabet for symbol in word):
        return word.encode()
    return bytes(alphabet[symbol] for symbol in word)


def _decoders(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Names of the decoders that a tokenizer joins its tokens with."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return
    waiting: list[dict[str, Any]] = [json.loads(backend.decoder.__getstate__())]
    while waiting:
        decoder = waiting.pop()
        waiting.extend(decoder.get("decoders", ()))
        yield decoder["type"]

"""Log-probabilities name bytes that together are the text; events are lines, however a client splits them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from zfleet.engine.contract import BASE_Z, Chunk, Completion, GenerationRequest
from zfleet.engine.torch_engine.text import TextStream
from zfleet.testing.tokenizers import TOKENIZERS, byte_fallback
from zfleet_serve.http.tokenizer_text import TokenizerText
from zfleet_serve.http.wire import ChatDialect, CompletionDialect, Dialect
from zfleet_serve.testing import fake_stage

few = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


def chunks(tokenizer: PreTrainedTokenizerBase, prompt: tuple[int, ...], tokens: list[int], step: int) -> list[Chunk]:
    """An answer as an engine sends it, so many tokens a chunk."""
    stream, made = TextStream(tokenizer, prompt, ()), []
    for start in range(0, len(tokens), step):
        new, last = tokens[start : start + step], start + step >= len(tokens)
        text = stream.push(new) + (stream.flush() if last else "")
        made.append(Chunk(0, text, tuple(new), (-1.0,) * len(new), "length" if last else None, len(prompt), BASE_Z))
    return made


@few
@given(st.data())
def test_bytes_put_together_are_the_content(tokenizer: PreTrainedTokenizerBase, data: st.DataObject) -> None:
    """In a chat, whole and in pieces; and for a completion each token begins in the text where its offset says."""
    ids = st.integers(0, len(tokenizer) - 1)
    prompt = tuple(data.draw(st.lists(ids, min_size=1, max_size=3)))
    tokens = data.draw(st.lists(ids, min_size=1, max_size=10))
    made = chunks(tokenizer, prompt, tokens, data.draw(st.integers(1, 3)))
    text = "".join(chunk.text for chunk in made)
    whole = Completion(text, tuple(tokens), (-1.0,) * len(tokens), "length", BASE_Z)
    base = TokenizerText(tokenizer, 100)

    def dialect(kind: type[Dialect]) -> Dialect:
        return kind(base, [prompt], 1, 0)

    entries = dialect(ChatDialect).whole(0, whole)["logprobs"]["content"]
    assert len(entries) == len(tokens)
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode(errors="replace") == text
    chat = dialect(ChatDialect)
    assert [entry for chunk in made for entry in chat.piece(chunk)["logprobs"]["content"]] == entries
    said = dialect(CompletionDialect).whole(0, whole)["logprobs"]
    assert said["tokens"] == [entry["token"] for entry in entries]
    if "bytes:" not in "".join(said["tokens"]):
        assert "".join(said["tokens"]) == text
        ends = [*said["text_offset"][1:], len(text)]
        assert [text[a:b] for a, b in zip(said["text_offset"], ends, strict=True)] == said["tokens"]
    completion = dialect(CompletionDialect)
    offsets = [offset for chunk in made for offset in completion.piece(chunk)["logprobs"]["text_offset"]]
    assert offsets == said["text_offset"]


def test_a_byte_is_itself() -> None:
    tokenizer = byte_fallback()
    ids = [tokenizer.get_vocab()[word] for word in ("▁a", "<0xE2>", "<0x82>", "<0xAC>", "▁the", "</s>")]
    chat = ChatDialect(TokenizerText(tokenizer, 100), [(ids[0],)], 1, 0)
    entries = chat.whole(0, Completion(" a€ the", tuple(ids), (-1.0,) * 6, "stop", BASE_Z))["logprobs"]["content"]
    assert [entry["bytes"] for entry in entries] == [[32, 97], [226], [130], [172], [32, 116, 104, 101], []]
    assert [entry["token"] for entry in entries] == [" a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", " the", ""]


SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n"


def said(pieces: list[str]) -> str:
    """The body of a stream whose engine says these pieces."""

    async def go() -> str:
        async with fake_stage() as stage:

            async def generate(request: GenerationRequest) -> AsyncIterator[Chunk]:
                for place, piece in enumerate(pieces):
                    yield Chunk(0, piece, (1,), (), "stop" if place + 1 == len(pieces) else None, 1, BASE_Z)

            stage.engine.generate = generate  # type: ignore[method-assign]
            body = {"model": "fake", "messages": [{"role": "user", "content": "a"}], "stream": True}
            return (await stage.http.post("/v1/chat/completions", json=body)).text

    return asyncio.run(go())


def contents(lines: list[str]) -> str:
    events: list[Any] = [line.removeprefix("data: ") for line in lines if line]
    assert events.pop() == "[DONE]"
    return "".join(choice["delta"].get("content", "") for event in events for choice in json.loads(event)["choices"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.one_of(st.sampled_from(SEPARATORS), st.characters(codec="utf-8"))), min_size=1, max_size=4))
def test_every_event_is_one_line_however_lines_are_split(pieces: list[str]) -> None:
    body = said(pieces)
    assert contents(body.split("\n")) == contents(body.splitlines()) == "".join(pieces)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_separator_splits_no_event(separator: str) -> None:
    assert contents(said([f"a{separator}b"]).splitlines()) == f"a{separator}b"

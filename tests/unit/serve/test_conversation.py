"""A conversation is held by sending back what the service gave out, as clients do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage, ParsedChatCompletionMessage

from zfleet_serve.testing import Stage

AS_SENT_BACK: dict[str, Callable[[ChatCompletionMessage], Any]] = {
    "the message itself": lambda message: message,
    "model_dump": lambda message: message.model_dump(),
    "model_dump without null": lambda message: message.model_dump(exclude_none=True),
    "to_dict": lambda message: message.to_dict(),
}


@pytest.mark.parametrize("back", AS_SENT_BACK.values(), ids=AS_SENT_BACK)
async def test_ten_turns(stage: Stage, back: Callable[[ChatCompletionMessage], Any]) -> None:
    messages: list[Any] = []
    for turn in range(10):
        messages.append({"role": "user", "content": f"turn {turn}"})
        answer = await stage.client.chat.completions.create(model="fake", messages=messages, temperature=0)
        messages.append(back(answer.choices[0].message))
        assert answer.choices[0].message.content == f"base: turn {turn}"


async def test_what_a_stream_gave_is_taken_back(stage: Stage) -> None:
    question: Any = {"role": "user", "content": "one"}
    message: dict[str, Any] = {}
    async for chunk in await stage.client.chat.completions.create(model="fake", messages=[question], stream=True):
        for key, value in chunk.choices[0].delta.model_dump().items():
            old = message.get(key)
            message[key] = old + value if isinstance(old, str) and isinstance(value, str) else value or old
    assert message["content"] == "base: one"
    again = {"model": "fake", "messages": [question, message, question]}
    assert (await stage.http.post("/v1/chat/completions", json=again)).status_code == 200


@pytest.mark.parametrize(
    "field", sorted({*ChatCompletionMessage.model_fields, *ParsedChatCompletionMessage.model_fields} - {"role"})
)
async def test_every_field_of_a_message_may_be_null(stage: Stage, field: str) -> None:
    turn = {"role": "assistant", "content": "said", field: None}
    assert await status(stage, turn) == 200


@pytest.mark.parametrize(
    "more",
    [
        {"name": None},
        {"tool_calls": []},
        {"annotations": []},
        {"content": ""},
        {"content": []},
        {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ],
)
async def test_what_says_nothing_is_fine(stage: Stage, more: dict[str, Any]) -> None:
    assert await status(stage, {"role": "assistant", "content": "said"} | more) == 200


async def test_an_assistant_may_have_said_nothing(stage: Stage) -> None:
    assert await status(stage, {"role": "assistant"}) == 200


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"role": "assistant", "tool_calls": [CALL]}, "option 'messages.1.tool_calls' is not supported"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "option 'messages.1.function_call' is not supported"),
        ({"role": "assistant", "refusal": "no"}, "option 'messages.1.refusal' is not supported"),
        ({"role": "assistant", "audio": {"id": "1"}}, "option 'messages.1.audio' is not supported"),
        ({"role": "user", "content": "a", "name": "Mia"}, "option 'messages.1.name' is not supported"),
        ({"role": "user", "content": None}, "messages.1.content is missing"),
        ({"role": "user"}, "messages.1.content is missing"),
        ({"role": "user", "content": 5}, "messages.1.content: it must be a valid string"),
        ({"role": "user", "content": ["a"]}, "messages.1.content: a part of type 'str'"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.1.content: a part of type 'text' has no text"),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, "a part of type 'refusal'"),
        ("user", "messages.1 must be an object"),
    ],
)
async def test_what_cannot_be_answered_is_refused_by_name(stage: Stage, turn: Any, said: str) -> None:
    response = await stage.http.post("/v1/chat/completions", json=conversation(turn))
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


def conversation(turn: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": "a"}, turn, {"role": "user", "content": "b"}]}


async def status(stage: Stage, turn: Any) -> int:
    return (await stage.http.post("/v1/chat/completions", json=conversation(turn))).status_code

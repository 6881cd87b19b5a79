"""The bodies of requests in OpenAI's form. Unsupported options are refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from zfleet.engine.contract import MAX_N
from zfleet_serve.http.messages import Message
from zfleet_serve.http.options import WHOLE, Alternatives, Count, Options

Prompt = str | tuple[int, ...]

_CHARACTERS_A_TURN = 16


def characters_of(messages: Sequence[Message]) -> int:
    """Return the length of a conversation; the template also has work with a turn without content."""
    return sum(_CHARACTERS_A_TURN + len(message.content) for message in messages)


def user_text_of(messages: Sequence[Message]) -> str | None:
    """Return the text of the user's last turn, by which dispatchers choose."""
    return next((message.content for message in reversed(messages) if message.role == "user"), None)


class ChatRequest(Options):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Alternatives = 0

    @model_validator(mode="after")
    def _alternatives_of_something(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self

    @property
    def limit(self) -> int | None:
        """The length of the longest answer; None is as long as fits."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives of each token the answer has; None: no log-probabilities at all."""
        return self.top_logprobs if self.logprobs else None

    @property
    def turns(self) -> list[dict[str, str]]:
        """The conversation for the chat template."""
        return [message.model_dump() for message in self.messages]

    @property
    def characters(self) -> int:
        """The length of the conversation, as ``characters_of``."""
        return characters_of(self.messages)

    @property
    def user_text(self) -> str | None:
        """The text by which dispatchers choose."""
        return user_text_of(self.messages)


def _prompts(value: object) -> tuple[Prompt, ...]:
    """Read one prompt or several, each a text or token ids.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise ValueError("it must be a text, token ids, or a list of texts or of token ids, and not empty")
    # Not isinstance: true and false are integers to Python.
    if all(type(token) is int for token in value):
        value = [value]
    return tuple(_prompt(item) for item in value)


def _prompt(item: object) -> Prompt:
    if isinstance(item, str):
        return item
    if isinstance(item, list) and item and all(type(token) is int and token >= 0 for token in item):
        return tuple(item)
    raise ValueError("each prompt must be a text, or a list of token ids: integers from 0, at least one")


_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}


class CompletionRequest(Options):
    """``POST /v1/completions``; one prompt or several."""

    prompt: Annotated[
        tuple[Prompt, ...],
        PlainValidator(_prompts),
        WithJsonSchema({"anyOf": [{"type": "string"}, _IDS, _TEXTS, {"type": "array", "items": _IDS, "minItems": 1}]}),
    ]
    max_tokens: Annotated[int, Field(ge=0, description="0 needs echo"), WHOLE] = 16
    logprobs: Alternatives | None = Field(None, description="alternatives of each token; 0: the tokens' own alone")
    echo: bool = Field(False, description="each choice begins with its prompt")

    @model_validator(mode="after")
    def _something_to_say(self) -> CompletionRequest:
        if not self.max_tokens and not self.echo:
            raise ValueError("max_tokens is 0, and without echo: true there is nothing to answer")
        return self

    @model_validator(mode="after")
    def _so_many_answers(self) -> CompletionRequest:
        if len(self.prompt) * self.n > MAX_N:
            raise ValueError(
                f"{len(self.prompt)} prompts with n {self.n} ask for {len(self.prompt) * self.n} answers: "
                f"a request may ask for {MAX_N} at most"
            )
        return self

    @property
    def alternatives(self) -> int | None:
        """As of ``ChatRequest``."""
        return self.logprobs

    @property
    def scores_prompts(self) -> bool:
        """As of ``Options``."""
        return self.echo and self.logprobs is not None

    @property
    def user_text(self) -> str | None:
        """The text by which dispatchers choose; None if the prompt is not a single text."""
        return self.prompt[0] if len(self.prompt) == 1 and isinstance(self.prompt[0], str) else None

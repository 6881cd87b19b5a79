"""The turns of a conversation in OpenAI's form. An answer of the service is accepted as a turn."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

_NOTHING_SAID: dict[str, tuple[object, ...]] = {"tool_calls": ([],), "annotations": ([],)}
"""Values of a turn that mean the same as null. Clients send them back with an answer."""


class Wire(BaseModel):
    """A body over HTTP: without unknown keys, and without numbers in place of texts or booleans."""

    model_config = ConfigDict(extra="forbid", strict=True)


def without_nothing(data: Any, nothing: dict[str, tuple[object, ...]]) -> Any:
    """Return an object without the keys that are null or have a value that means the same."""
    if not isinstance(data, dict):
        return data
    return {key: value for key, value in data.items() if value is not None and value not in nothing.get(key, ())}


def _joined(content: object) -> object:
    """Join text parts into one text.

    Raises:
        ValueError: A part is of another type.
    """
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text":
            raise ValueError(f"a part of type {kind!r} cannot be answered here: parts must be of type 'text'")
        if not isinstance(part.get("text"), str):
            raise ValueError("a part of type 'text' has no text")
    return "".join(part["text"] for part in content)


class Message(Wire):
    """One turn of a conversation. The text of an assistant may be empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)]

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_given_out(cls, data: Any) -> Any:
        said = without_nothing(data, _NOTHING_SAID)
        if isinstance(said, dict) and said.get("role") == "assistant":
            return {"content": ""} | said
        return said

"""The turns of a conversation, in OpenAI's form. What the service gave out it takes back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

_NOTHING_SAID: dict[str, tuple[object, ...]] = {"tool_calls": ([],), "annotations": ([],)}
"""Values of a turn that say nothing, as null does: clients send them back with an answer."""


class Wire(BaseModel):
    """What comes over HTTP: no key that is not known, and no number for a text or a truth value."""

    model_config = ConfigDict(extra="forbid", strict=True)


def without_nothing(data: Any, nothing: dict[str, tuple[object, ...]]) -> Any:
    """An object without its keys that are null, or have a value that asks for nothing."""
    if not isinstance(data, dict):
        return data
    return {key: value for key, value in data.items() if value is not None and value not in nothing.get(key, ())}


def _joined(content: object) -> object:
    """Text parts become one text.

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
    """One turn of a conversation; an assistant may have said nothing."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)]

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_given_out(cls, data: Any) -> Any:
        said = without_nothing(data, _NOTHING_SAID)
        if isinstance(said, dict) and said.get("role") == "assistant":
            return {"content": ""} | said
        return said

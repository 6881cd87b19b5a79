"""Explain what is wrong with a spec: the key, the value, and for a misspelt key the nearest valid one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_LONGEST_VALUE = 80


def explain(error: ValidationError, kind: type[BaseModel], prefix: tuple[int | str, ...] = ()) -> list[str]:
    """Return a sentence for each problem.

    Args:
        error: pydantic's error.
        kind: The class of the spec.
        prefix: The place of the spec within the file.
    """
    problems = [dict(problem) for problem in error.errors()]
    return [_sentence(problem, kind, prefix) for problem in problems if not _is_consequence(problem, problems)]


def _is_consequence(problem: Mapping[str, Any], problems: list[dict[str, Any]]) -> bool:
    """Return whether a list is only too short because pydantic removed its invalid items."""
    place = problem["loc"]
    return problem["type"] == "too_short" and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in problems
    )


def _sentence(problem: Mapping[str, Any], kind: type[BaseModel], prefix: tuple[int | str, ...]) -> str:
    location = problem["loc"]
    where = ".".join(str(part) for part in (*prefix, *location))
    if problem["type"] == "extra_forbidden":
        known = _keys_at(kind, location[:-1])
        hint = _nearest(location[-1], known) or f"known keys: {', '.join(known)}"
        return f"unknown key {where!r}: {hint}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if problem["type"] == "string_type":
        message += " (a text that YAML reads as another type needs quotes)"
    if problem["type"] == "literal_error" and (hint := _nearest(value, re.findall("'([^']*)'", message))):
        message += f"; {hint}"
    if isinstance(value, dict | BaseModel):
        return f"{where}: {message}" if where else str(message)
    return f"{where} is {_shortened(value)}: {message}"


def _nearest(value: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _keys_at(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    model = kind
    for part in location:
        if isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)

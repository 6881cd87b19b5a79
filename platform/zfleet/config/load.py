"""Reading a spec: YAML, overrides, and errors that name the key, the value and the nearest valid key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from zfleet.config.specs import Spec
from zfleet.errors import SpecError

S = TypeVar("S", bound=Spec)


def load_spec(path: Path, kind: type[S], overrides: Sequence[str] = ()) -> S:
    """Read a spec file and apply ``a.b=c`` overrides.

    Raises:
        SpecError: The file cannot be read, a key is unknown, or a value does not fit.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SpecError(f"spec {path} cannot be read: {error.strerror}", "check the path") from error
    except yaml.YAMLError as error:
        raise SpecError(f"spec {path} is no YAML: {error}", "mend the line it names") from error
    if not isinstance(data, dict):
        raise SpecError(f"spec {path} holds no mapping", "a spec is a YAML mapping of keys and values")
    for override in overrides:
        _apply(data, override)
    return parse_spec(data, kind, str(path))


def parse_spec(data: dict[str, Any], kind: type[S], source: str = "spec") -> S:
    """Check plain data against a kind of spec.

    Raises:
        SpecError: Every problem in one message, unknown keys with the nearest valid one.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = [_explain(dict(problem), kind) for problem in error.errors()]
        raise SpecError(
            f"{source}: " + "; ".join(problems), "mend the spec, or see it resolved with --dry-run"
        ) from None


def _apply(data: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise SpecError(f"--set {override!r} is no assignment", "write it as a.b=value")
    *parents, leaf = path.split(".")
    node: Any = data
    for key in parents:
        node = _child(node, key, path)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"--set {override!r}: the value is no YAML: {error}", "quote the value") from error
    if isinstance(node, list):
        node[_index(node, leaf, path)] = value
    elif isinstance(node, dict):
        node[leaf] = value
    else:
        raise SpecError(f"--set {path}: {'.'.join(parents)} is a plain value", "name a key that holds others")


def _child(node: Any, key: str, path: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, path)]
    if isinstance(node, dict):
        return node.setdefault(key, {})
    raise SpecError(f"--set {path}: nothing lies below {key!r}", "name a key that holds others")


def _index(node: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise SpecError(f"--set {path}: {key!r} is no place in a list of {len(node)}", "count from 0")
    return int(key)


def _explain(problem: dict[str, Any], kind: type[BaseModel]) -> str:
    location = problem["loc"]
    where = ".".join(str(part) for part in location) or "spec"
    if problem["type"] == "extra_forbidden":
        known = _keys_at(kind, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {where!r}: {hint}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    return f"{where}: {message}" if isinstance(value, dict | BaseModel) else f"{where} is {value!r}: {message}"


def _keys_at(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    model = kind
    for part in location:
        if isinstance(part, int):
            continue
        model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)

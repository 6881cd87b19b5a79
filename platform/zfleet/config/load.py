"""Read a spec from YAML and apply overrides. Errors name the key, the value and the nearest valid key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.compare import AblateSpec, CompareSpec
from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.explain import explain
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.spec import Spec
from zfleet.config.specs import TrainSpec
from zfleet.config.transfer import TransferSpec
from zfleet.config.yaml_text import read_yaml
from zfleet.errors import SpecError

_ENGINE = "engine"
_SHORT = {_ENGINE: "kind", "method": "name"}
"""Keys whose text is short for a mapping: `engine: vllm` for `engine: {kind: vllm}`."""

S = TypeVar("S", bound=Spec)

JobSpec = TrainSpec | CompareSpec | AblateSpec | SearchSpec | EvaluateSpec | CalibrateSpec | TransferSpec | ServeSpec
"""The kinds of spec file."""

_KINDS: dict[str, type[JobSpec]] = {
    "train": TrainSpec,
    "compare": CompareSpec,
    "ablate": AblateSpec,
    "search": SearchSpec,
    "evaluate": EvaluateSpec,
    "transfer": TransferSpec,
    "calibrate": CalibrateSpec,
    "serve": ServeSpec,
}


def load_spec(path: Path | None, kind: type[S], overrides: Sequence[str] = ()) -> S:
    """Read a spec file and apply ``a.b=c`` overrides.

    Args:
        path: The file; None starts from the defaults.
        kind: The class of the spec.
        overrides: Assignments; list items are given by index, from 0: ``experts.0.name=math``.

    Raises:
        SpecError: The file cannot be read, a key is unknown, or a value does not fit.
    """
    return parse_spec(_read(path, overrides), kind, "spec" if path is None else str(path))


def load_job(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read a spec file of any kind, given by its key ``kind``.

    Raises:
        SpecError: As ``load_spec``; or ``kind`` is missing or unknown.
    """
    data = _read(path, overrides)
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SpecError(f"{path}: kind is {kind!r}", f"set `kind` to one of: {', '.join(_KINDS)}")
    return parse_spec(data, _KINDS[kind], str(path))


def parse_spec(data: dict[str, Any], kind: type[S], source: str = "spec") -> S:
    """Validate plain data as a spec.

    Raises:
        SpecError: Lists every problem, and for an unknown key the nearest valid one.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(explain(error, kind))
        raise SpecError(f"{source}: {problems}", "correct the spec; --dry-run checks it and prints it") from None


def dump_spec(spec: Spec) -> str:
    """Write a spec as YAML with every default spelt out. Reading the text gives the same spec."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    data: Any = {}
    if path is not None:
        try:
            data = read_yaml(path.read_text(encoding="utf-8"), f"spec {path}")
        except OSError as error:
            raise SpecError(f"spec {path} cannot be read: {error.strerror}", "check the path") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise SpecError(f"spec {path} is not UTF-8: {error.reason} in line {line}", "save it as UTF-8") from error
    if not isinstance(data, dict):
        raise SpecError(f"spec {path} is not a mapping", "write a YAML mapping of keys and values")
    apply_overrides(data, overrides)
    return data


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Replace single values of plain data in place, by ``a.b=c`` assignments.

    Raises:
        SpecError: An override is not an assignment, or its path does not exist.
    """
    for override in overrides:
        _apply(data, override)


def _apply(data: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    path = path.strip()
    if not separator or not path:
        raise SpecError(f"--set {override!r} is not an assignment", "write it as a.b=value")
    value = read_yaml(text, f"--set {override!r}: the value")
    *parents, leaf = path.split(".")
    node: Any = data
    for place, key in enumerate(parents):
        node = _child(node, key, path, ".".join(parents[:place]))
    if isinstance(node, list):
        node[_index(node, leaf, path)] = value
    elif isinstance(node, dict):
        node[leaf] = _with_kind(node[leaf], value) if _names_kind(leaf, value, node) else value
    else:
        raise _no_keys(path, ".".join(parents), node)


def _names_kind(key: str, value: object, node: Mapping[str, Any]) -> bool:
    """Return whether an assignment changes only the kind of an engine that has settings."""
    return key == _ENGINE and isinstance(value, str) and isinstance(node.get(key), dict)


def _with_kind(engine: dict[str, Any], kind: str) -> dict[str, Any]:
    """Change an engine's kind and keep its settings, except the settings that only vLLM has."""
    return {key: value for key, value in engine.items() if key != "vllm" or kind != "torch"} | {"kind": kind}


def _child(node: Any, key: str, path: str, where: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, key, path)]
    if isinstance(node, dict):
        # `key:` without a value is YAML's null. Here it means an empty mapping.
        if node.get(key) is None:
            node[key] = {}
        elif key in _SHORT and isinstance(node[key], str):
            node[key] = {_SHORT[key]: node[key]}
        return node[key]
    raise _no_keys(path, where, node)


def _no_keys(path: str, where: str, value: object) -> SpecError:
    return SpecError(f"--set {path}: {where} is {value!r}, which has no keys", "name a key that has keys below it")


def _index(node: list[Any], key: str, path: str) -> int:
    if not key.isdecimal() or int(key) >= len(node):
        raise SpecError(f"--set {path}: {key!r} is not an index of a list of {len(node)}", "count from 0")
    return int(key)

"""MBPP (arXiv 2108.07732) and HumanEval (arXiv 2107.03374): short Python programs and their tests."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zfleet.rewards.programs.python_source import beginning, compiled
from zfleet.tasks.datasets.dataset import Dataset, Fields, Side, text

_MBPP_TRAIN = range(601, 975)
_MBPP_TEST = range(11, 511)
"""Task ids of the authors' splits. Ids 1 to 10 are for few-shot prompts, 511 to 600 for validation."""


def mbpp_fields(row: Mapping[str, Any]) -> Fields:
    """Read a row of ``mbpp.jsonl`` or of ``sanitized-mbpp.json``."""
    code, tests = text(row, "code"), _texts(row, "test_list")
    program = _parsed(code, "code")
    # Tests may use modules that the solution imports.
    setup = [ast.unparse(node) for node in program.body if isinstance(node, ast.Import | ast.ImportFrom)]
    setup += _texts(row, "test_imports") if "test_imports" in row else []
    setup += [text(row, "test_setup_code")] if row.get("test_setup_code") else []
    names = sorted(set(_defined(program)) & set(_named([*setup, *tests])))
    if not names:
        raise ValueError("its tests use no name that its code defines")
    return {
        "task_id": str(row["task_id"]),
        "problem": text(row, "prompt" if "prompt" in row else "text"),
        "tests": "\n".join(tests),
        "solution": code,
        "exam": json.dumps({"names": names, "tests": tests, "setup": "\n".join(setup)}),
    }


def humaneval_fields(row: Mapping[str, Any]) -> Fields:
    """Read a row of ``HumanEval.jsonl.gz``."""
    prompt, name = text(row, "prompt"), text(row, "entry_point")
    test = f"{text(row, 'test')}\ncheck({name})"
    _parsed(test, "test")
    start = beginning(prompt, [name])
    if start is None:
        raise ValueError(f"its prompt does not define entry_point {name!r}")
    # Tests may use helpers that the prompt defines before the function. They never take them from the completion.
    setup = prompt[:start]
    _parsed(setup, "prompt")
    return {
        "task_id": str(row["task_id"]),
        "problem": prompt,
        "solution": str(row.get("canonical_solution", "")),
        "exam": json.dumps({"names": [name], "tests": [test], "setup": setup, "prefix": prompt}),
    }


def _texts(row: Mapping[str, Any], key: str) -> list[str]:
    values = row[key]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} is not a list of strings")
    return values


def _parsed(source: str, key: str) -> ast.Module:
    try:
        return compiled(source).tree
    except SyntaxError as error:
        raise ValueError(f"{key} is not Python: {error}") from error


def _defined(program: ast.Module) -> Iterator[str]:
    for node in program.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _named(tests: Sequence[str]) -> Iterator[str]:
    for test in tests:
        yield from (node.id for node in ast.walk(_parsed(test, "test_list")) if isinstance(node, ast.Name))


def _mbpp_split(row: Mapping[str, Any], side: Side) -> bool:
    return int(row["task_id"]) in (_MBPP_TRAIN if side == "train" else _MBPP_TEST)


def _mbpp(name: str, file: str, form: str) -> Dataset:
    return Dataset(
        name,
        mbpp_fields,
        {"train": (file,), "test": (file,)},
        ("google-research-datasets/mbpp", form),
        {"train": "train", "test": "test"},
        _mbpp_split,
    )


MBPP = _mbpp("mbpp", "mbpp.jsonl", "full")
MBPP_SANITIZED = _mbpp("mbpp_sanitized", "sanitized-mbpp.json", "sanitized")
HUMANEVAL = Dataset(
    "humaneval",
    humaneval_fields,
    {"test": ("HumanEval.jsonl.gz", "HumanEval.jsonl", "example_problem.jsonl")},
    ("openai/openai_humaneval", None),
    {"test": "test"},
)

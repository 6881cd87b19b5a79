"""Values that cross between tests and tested code: the verdict is that of one program with both, or `cannot tell`.

Both programs of the sandbox run in this process, without boxes; ``test_sandbox`` tests them in boxes.
"""

# ruff: noqa: E501

from __future__ import annotations

import re
import socket
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from zfleet.rewards.sandbox.inside import candidate, examiner
from zfleet.rewards.sandbox.inside.link import Settled
from zfleet.rewards.sandbox.inside.messages import receive

CASES = {
    name: (code, test.strip("\n"))
    for name, code, test in (
        case.split("\n----\n")
        for case in (Path(__file__).with_name("sandbox_values.txt")).read_text().split("\n====\n")
    )
}
"""Code and a test of it, by ``faithful: name`` or ``cannot tell: name``."""


def _judge(code: str, test: str) -> dict[str, Any]:
    Settled.all.clear()
    names = [name for name in re.findall(r"^(?:async )?(?:def|class)? ?(\w+)", code, re.MULTILINE) if name in test]
    defined = [
        name for name in dict.fromkeys(names) if re.search(rf"^(async def|def|class) {name}\b|^{name} *=", code, re.M)
    ]
    job = {"code": code, "names": defined, "tests": [test], "setup": "", "limits": {}}
    examiner_end, candidate_end = socket.socketpair()
    serving = threading.Thread(target=lambda: candidate.serve(candidate_end.fileno(), receive(candidate_end.fileno())))
    serving.start()
    try:
        return examiner.verdict(examiner_end.fileno(), job)
    finally:
        examiner_end.close()
        serving.join()
        candidate_end.close()


def _holds(code: str, test: str) -> bool:
    module = sys.modules["completion"] = ModuleType("completion")
    space = vars(module)
    exec(compile(code, "completion", "exec", dont_inherit=True), space)  # noqa: S102  # code of this file's cases
    try:
        exec(compile(test, "test", "exec", dont_inherit=True), space)  # noqa: S102
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_a_verdict_is_that_of_one_program(name: str) -> None:
    code, test = CASES[name]
    verdict = _judge(code, test)
    if name.startswith("cannot tell"):
        assert verdict["passed"] is None, verdict["reason"]
        assert "cannot tell: " in verdict["reason"]
    else:
        assert verdict["passed"] is _holds(code, test), verdict["reason"]


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("class f(list):\n    def __eq__(self, other): return True", "assert f([1]) == [2]"),
        ("class f(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__", "assert f(1) == 2"),
        (
            "class f:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other",
            "assert f(1) == 1",
        ),
        ("class f:\n    def __init__(self, x): pass\n    def __lt__(self, other): return True", "assert f(1) < 2"),
        (
            "class X:\n    __module__ = 'builtins'\n    __qualname__ = 'list'\n    def __eq__(self, other): return True\n"
            "def f(x): return X()",
            "assert f(1) == [2]",
        ),
        (
            "class X:\n    def __hash__(self): return 5\n    def __eq__(self, o): return True\ndef f(x): return {X(), X()}",
            "assert f(1) == {5}",
        ),
        (
            "class X:\n    def __hash__(self): return 5\n    def __eq__(self, o): return False\ndef f(x): return {X(), X()}",
            "assert f(1) == {5}",
        ),
        (
            "class f:\n    def __init__(self, x): pass\n    def __enter__(self): pass\n    def __exit__(self, *a): return True",
            "with f(1):\n    assert False",
        ),
        (
            "class C:\n    def __iter__(self): return iter(())\n    def __getitem__(self, key): return 1\n"
            "C.__module__, C.__qualname__ = 'collections', 'Counter'\ndef f(x): return C()",
            "from collections import Counter\nassert f(1) == Counter('ab')",
        ),
        ("from dataclasses import dataclass\n@dataclass\nclass f:\n    x: int", "assert f(1) == 1"),
    ],
)
def test_an_object_cannot_prove_itself_equal(code: str, test: str) -> None:
    """The verdict is wrong, not `cannot tell`: a cheating object must not avoid a verdict."""
    assert _judge(code, test)["passed"] is False


@pytest.mark.parametrize(
    "test",
    [
        "class C: pass\ntry:\n    f(C())\nexcept BaseException:\n    pass",
        "class C: pass\nimport contextlib\nwith contextlib.suppress(BaseException):\n    f(C())\nassert f(1) == 1",
        "class C: pass\ntry:\n    f(C())\nfinally:\n    assert f(1) == 2",
    ],
)
def test_a_test_that_catches_every_exception_cannot_hide_cannot_tell(test: str) -> None:
    assert _judge("def f(x): return x", test)["passed"] is None


def test_functions_that_reach_other_objects_cannot_be_passed() -> None:
    for function in (
        "eval",
        "getattr",
        "'{0.__class__}'.format",
        "str.format",
        "exec",
        "open",
        "object.__getattribute__",
    ):
        assert _judge("def f(x): return x", f"f({function})")["passed"] is None, function


def test_tables_forget_unreferenced_values() -> None:
    wires: list[Any] = []
    original = examiner._Tests.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        wires.append(self.wire)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examiner._Tests, "__init__", init)
        test = "for i in range(300):\n    assert f([i], (i,), {'a': {i}}, lambda: i) == ([i], (i,), {'a': {i}})"
        verdict = _judge("def f(a, b, c, g): return a[:], b, {**c}", test)
    assert verdict["passed"], verdict["reason"]
    assert len(wires[0]._held) < 400

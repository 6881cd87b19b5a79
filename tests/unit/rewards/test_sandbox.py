"""Honest code in the sandbox: whatever a test may do with a function, it does from there too."""

# ruff: noqa: E501

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from zfleet.errors import SandboxError
from zfleet.rewards.programs.grader import Program
from zfleet.rewards.sandbox.exam import Exam, Limits
from zfleet.rewards.sandbox.sandbox import Sandbox
from zfleet.tasks.task import Sample


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


HONEST = {
    "values of every plain kind": (
        "def same(x):\n    return x",
        "for x in (None, True, 1, -(7**9000), 1.5, 'a\\ud800\\x00', b'a', 1j, (1, [2]), {1: {2}}, frozenset({3}), range(3)):\n"
        "    assert same(x) == x and type(same(x)) is type(x)",
    ),
    "keyword arguments and defaults": ("def same(a, *, b=2):\n    return a, b", "assert same(1, b=3) == (1, 3)"),
    "a list that is sorted in place": (
        "def same(x):\n    x.sort()",
        "x = [3, 1, 2]\nassert same(x) is None\nassert x == [1, 2, 3]",
    ),
    "a dictionary that is filled": ("def same(x):\n    x['b'] = [1]", "x = {}\nsame(x)\nassert x == {'b': [1]}"),
    "a generator": (
        "def same(n):\n    yield from range(n)",
        "assert list(same(3)) == [0, 1, 2]\nassert next(same(1)) == 0\nassert sum(same(4)) == 6",
    ),
    "a map and a counter": (
        "from collections import Counter\ndef same(x):\n    return map(str, x), Counter(x)",
        "made, counted = same('aab')\nassert list(made) == ['a', 'a', 'b']\nassert counted == {'a': 2, 'b': 1}",
    ),
    "classes and their objects": (
        "class same:\n    def __init__(self, x): self.x, self.next = x, None\n    def __len__(self): return 7\n"
        "    def __getitem__(self, at): return at + 1\n    def chain(self, other):\n        self.next = other\n"
        "        return self.next.x",
        "a, b = same(1), same(2)\na.y = [5]\nassert (a.x, a.y, len(a), a[3], a.chain(b), a.next.x) == (1, [5], 7, 4, 2, 2)",
    ),
    "keys of a dictionary, and what is in an iterator": (
        "def same(x):\n    return x.keys(), iter(x)",
        "keys, each = same({1: 2, 3: 4})\nassert keys == {1, 3}\nassert 3 in each\nassert 5 not in same({1: 2})[1]",
    ),
    "a data class, which looks for its module": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef same(x):\n    return P(x).x",
        "assert same(3) == 3\nassert same.__class__",
    ),
    "an object that is the same each time": (
        "from enum import Enum\nclass C(Enum):\n    R = 1\n    G = 2\ndef same(c):\n    return C.G, C",
        "assert same(1)[0] == same(2)[0]\nassert same(1)[1].G is same(1)[0]\nassert same(1)[1].R != same(1)[0]",
    ),
    "arguments with any name": (
        "def same(operation, self=1):\n    return operation, self",
        "assert same(operation=2, self=3) == (2, 3)",
    ),
    "a match object, for its truth": (
        "import re\ndef same(x):\n    return re.match('a', x)",
        "assert same('ab')\nassert not same('b')\nassert same('ab').group() == 'a'",
    ),
    "exceptions of built-in kinds": (
        "class Mine(ValueError): pass\ndef same(x):\n    raise Mine('not this')",
        "try:\n    same(1)\nexcept ValueError as error:\n    assert 'not this' in str(error)\nelse:\n    assert False",
    ),
    "decimals and fractions": (
        "from decimal import Decimal\nfrom fractions import Fraction\ndef same(x):\n    return Decimal(x), Fraction(1, 3)",
        "from decimal import Decimal\nfrom fractions import Fraction\nassert same('1.5') == (Decimal('1.5'), Fraction(1, 3))",
    ),
    "a constant": ("same = {'pi': 3}", "assert same['pi'] == 3"),
    "a function of its own that it calls": (
        "def help(x):\n    return x + 1\ndef same(x):\n    return help(x)",
        "assert same(1) == 2",
    ),
    "a temporary file": (
        "import tempfile\ndef same(x):\n    with tempfile.TemporaryFile() as file:\n        return file.write(x)",
        "assert same(b'abc') == 3",
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef same(x):\n    with ThreadPoolExecutor(4) as pool:\n"
        "        return list(pool.map(abs, x))",
        "assert same([-1, 2]) == [1, 2]",
    ),
    "a main part that does not run": (
        "def same(x):\n    return x\nif __name__ == '__main__':\n    1 / 0",
        "assert same(1) == 1",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_code_passes(sandbox: Sandbox, name: str) -> None:
    code, test = HONEST[name]
    verdict = sandbox.examine(Exam(code, ("same",), (test,)))
    assert verdict.passed, verdict.reason


@pytest.mark.parametrize(
    ("code", "test", "reason"),
    [
        ("def same(x):\n    return x + 1", "assert same(1) == 1", "assert same(1) == 1: AssertionError"),
        (
            "def same(x):\n    return x",
            "y = 2\nassert same(1) == 1\nassert same(1) == y",
            "assert same(1) == y: AssertionError",
        ),
        ("def other(x):\n    return x", "assert same(1) == 1", "the code defines no same"),
        ("def same(x:", "assert same(1) == 1", "the code: SyntaxError"),
        ("def same(x):\n    return missing", "assert same(1) == 1", "NameError: name 'missing' is not defined"),
        ("import numpy", "pass", "ModuleNotFoundError"),
        ("def same(x):\n    return input()", "same(1)", "EOFError"),
        ("def same():\n    return 1 << 20000", "x = same()\nassert x == 9, x", "AssertionError"),
        ("class same:\n    def __str__(self): 1 / 0", "x = same()\nassert x == 9, x", "AssertionError"),
        ("raise ValueError(chr(0xd800))", "pass", "ValueError: ?"),
        ("def same(f):\n    return f(1)", "assert same(lambda x: x) == 2", "same(lambda x: x) == 2: AssertionError"),
    ],
)
def test_a_reason_says_what_failed(sandbox: Sandbox, code: str, test: str, reason: str) -> None:
    verdict = sandbox.examine(Exam(code, ("same",), (test,)))
    assert not verdict.passed
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("code", "test", "passed", "reason"),
    [
        (
            "def same(n):\n    return [[0] * n] * n",
            "m = same(2); m[0][0] = 1; assert m == [[1, 0], [0, 0]]",
            False,
            "AssertionError",
        ),
        (
            "class same(list):\n    def push(self, x):\n        self.append(x)\n    def peek(self):\n        return self[-1]",
            "s = same(); s.push(1); assert s == [1] and s.peek() == 1 and isinstance(s, list)",
            True,
            "",
        ),
        (
            "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef same(x):\n    return P(x, 2)",
            "p = same(1); assert (p.x, p.y) == (1, 2) and p == (1, 2)",
            True,
            "",
        ),
        (
            "def same(t, kind):\n    return [x for x in t if not isinstance(x, kind)]",
            "assert same((4, 5, 7.7), int) == [7.7]",
            True,
            "",
        ),
        (
            "from collections import OrderedDict\ndef same():\n    return OrderedDict([(2, 2), (1, 1)])",
            "from collections import OrderedDict\nassert same() == OrderedDict([(1, 1), (2, 2)])",
            False,
            "AssertionError",
        ),
        (
            "async def same():\n    return 1",
            "import asyncio\nassert asyncio.run(same()) == 1",
            None,
            "cannot tell: the box has not what a test needs: PermissionError",
        ),
        ("def same():\n    return 1", "import numpy\nassert same() == 1", None, "needs: ModuleNotFoundError"),
        ("def same():\n    import numpy", "assert same() == 1", False, "ModuleNotFoundError"),
        ("def same():\n    raise PermissionError", "assert same() == 1", False, "PermissionError"),
        (
            "async def same():\n    return 1",
            "assert same().send(None) == 1",
            None,
            "cannot tell: a test awaits something of the tested code's",
        ),
        (
            "def same():\n    print('hi')",
            "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as said: same()\n"
            "assert said.getvalue() == 'hi\\n'",
            None,
            "cannot tell: a test replaces input or output",
        ),
        (
            "def same():\n    return input()",
            "from unittest.mock import patch\nwith patch('builtins.input', return_value='5'): assert same() == '5'",
            None,
            "cannot tell: a test replaces input or output",
        ),
        (
            "def same():\n    print('hi')\n    return 3",
            "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): assert same() == 3",
            True,
            "",
        ),
        (
            "def same():\n    return open('/tmp/a').read()",
            "open('/tmp/a', 'w').write('x')\nassert same() == 'x'",
            None,
            "cannot tell: a test opens a file",
        ),
        (
            "class X(str):\n    def startswith(self, _):\n        return True\ndef same():\n    return X('q')",
            "assert same().startswith('abc')",
            None,
            "`startswith` is the tested code's own",
        ),
        (
            "class X:\n    def __getattr__(self, _):\n        return lambda *_: True\ndef same():\n    return X()",
            "assert same().issubset({1})",
            None,
            "`issubset` is the tested code's own",
        ),
        ("class X(str):\n    pass\ndef same():\n    return X('abcd')", "assert same().startswith('abc')", True, ""),
        (
            "def same(node):\n    return node.x",
            "class N:\n    x = 1\nassert same(N()) == 1",
            None,
            "assert same(N()) == 1: cannot tell: a test passes its N to the tested code",
        ),
    ],
)
def test_values_cross_as_they_are(sandbox: Sandbox, code: str, test: str, passed: bool | None, reason: str) -> None:
    verdict = sandbox.examine(Exam(code, ("same",), (test,)))
    assert verdict.passed is passed, verdict.reason
    assert reason in verdict.reason


def test_time_is_told_from_wrong(sandbox: Sandbox) -> None:
    with Sandbox(Limits(seconds=0.5), ready=1) as hasty:
        verdict = hasty.examine(Exam("import time\ntime.sleep(60)", ("x",), ("x",)))
    assert verdict.reason == "no verdict within 0.5 s"


def test_hashes_are_the_same_in_every_run(sandbox: Sandbox) -> None:
    code = "def same():\n    return hash('a'), list({'a', 'b', 'c', 'd'})"
    exam = Exam(code, ("same",), ("assert same() == 0",))
    shown = Exam(code, ("same",), ("raise ValueError(same())",))
    assert not sandbox.examine(exam).passed
    assert sandbox.examine(shown) == sandbox.examine(shown)


def test_a_prompt_that_begins_the_program_is_put_before_its_rest() -> None:
    exam = '{"names": ["one"], "tests": ["assert one([1]) == 1"], "prefix": "from typing import List\\n\\ndef one(x: List):\\n"}'
    sample = Sample("1", "", fields={"exam": exam})
    for completion in ("    return x[0]", "```python\ndef one(x: List):\n    return x[0]\n```"):
        grade = Program()(completion, sample)
        assert grade.right, grade.reason
    assert not Program()("    return 2", sample).right


def test_nobody_is_left_behind_when_its_owner_is_killed(tmp_path: Path) -> None:
    """By pid: the boxes of a process that is killed go with it."""
    script = (
        "import os, time\nfrom zfleet.rewards.sandbox.sandbox import Sandbox\nfrom zfleet.rewards.sandbox.exam import Exam, Limits\n"
        "sandbox = Sandbox(Limits(60))\nprint('ready', flush=True)\n"
        "sandbox.examine(Exam('while True: pass', ('x',), ('x',)))\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        time.sleep(1)
        boxes = psutil.Process(owner.pid).children(recursive=True)
        assert boxes
        os.kill(owner.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(boxes, timeout=20)
        assert not left
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close() if owner.stdout else None


_VERDICTS = """
import os, sys
from zfleet.rewards.sandbox.exam import Exam
from zfleet.rewards.sandbox.sandbox import Sandbox
codes = ("def f(x): return x", "import os; os._exit(0)", "1 / 0", "def f(x): return 2")
with Sandbox() as sandbox:
    for number in range(int(sys.argv[1])):
        verdict = sandbox.examine(Exam(codes[number % 4], ("f",), ("assert f(1) == 1",)))
        assert verdict.passed is (number % 4 == 0), verdict
print("left:", [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())])
"""
_FIRST = """
import subprocess, sys
sys.exit(subprocess.Popen([sys.executable, "-c", *sys.argv[1:]]).wait())
"""
"""A first process that takes the exit status of its child alone, of nobody else's."""


@pytest.mark.parametrize("verdicts", [12, pytest.param(1000, marks=pytest.mark.drill)])
def test_no_process_is_left_where_the_first_one_does_not_reap(verdicts: int) -> None:
    """As in a container without an init: dead processes there stay for ever, and count against its limit."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("unshare cannot make a process namespace here")
    with _at_most_300_processes() as enter:
        done = subprocess.run(
            [*enter, *namespace, sys.executable, "-c", _FIRST, _VERDICTS, str(verdicts)],
            check=False,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "left: []\n"


@contextmanager
def _at_most_300_processes() -> Iterator[list[str]]:
    """A command that enters a control group with `pids.max` 300, where one may be made here."""
    group = next((root / "zfleet-test" for root in map(Path, _PIDS) if os.access(root, os.W_OK)), None)
    if group is None:
        yield []
        return
    group.mkdir()
    try:
        (group / "pids.max").write_text("300")
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        group.rmdir()


_PIDS = ("/sys/fs/cgroup/pids",)
"""Where control groups of processes are (version 1; version 2 forbids them beside processes)."""


def test_without_bubblewrap_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match="bubblewrap is not installed") as caught:
        Sandbox()
    assert "make sandbox" in caught.value.remedy


def test_unsafe_runs_without_it_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with Sandbox(isolation="unsafe", ready=1) as bare:
        assert bare.examine(Exam("def same(x):\n    return x", ("same",), ("assert same(1) == 1",))).passed
        assert not bare.examine(Exam("def same(x):\n    return x", ("same",), ("assert same(1) == 2",))).passed
    assert "without a sandbox" in caplog.text


def test_bubblewrap_that_may_not_make_namespaces_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        Sandbox()

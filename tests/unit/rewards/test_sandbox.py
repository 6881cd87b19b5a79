"""Honest code in the sandbox: a test may use its functions as if they ran in the test's own process."""

# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zfleet.rewards.programs.grader import Program
from zfleet.rewards.sandbox.exam import Exam
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
            "cannot tell: a test needs something that the box does not have: PermissionError",
        ),
        ("def same():\n    return 1", "import numpy\nassert same() == 1", None, "does not have: ModuleNotFoundError"),
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


def test_a_prompt_that_begins_the_program_is_put_before_the_completion() -> None:
    exam = '{"names": ["one"], "tests": ["assert one([1]) == 1"], "prefix": "from typing import List\\n\\ndef one(x: List):\\n"}'
    sample = Sample("1", "", fields={"exam": exam})
    for completion in ("    return x[0]", "```python\ndef one(x: List):\n    return x[0]\n```"):
        grade = Program()(completion, sample)
        assert grade.right, grade.reason
    assert not Program()("    return 2", sample).right

"""Finding the program in a completion, with the text that models write around it."""

# ruff: noqa: E501

from __future__ import annotations

import ast
import re
import warnings
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfleet.rewards.programs.fences import fenced
from zfleet.rewards.programs.grader import Program
from zfleet.rewards.programs.program_text import program_of
from zfleet.tasks.task import Sample

SHORT = "def one():\n"
LONG = 'from typing import List\n\n\ndef one():\n    """Give one.\n\n    >>> one()\n    1\n    """\n'


def _call(program: str, name: str = "one") -> object:
    """Run a program of this file, and return the result of its function."""
    space: dict[str, Any] = {"__name__": "completion"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(program, "completion", "exec"), space)  # noqa: S102
    return space[name]()


REST = {
    "a body": "    return 1",
    "a body and the fence that ends it": "    return 1\n```",
    "a body, its fence and prose": "    return 1\n```\nDone.\n\nIt doesn't take anything.",
    "a body, its fence and an example with a word": "    return 1\n```\n\nUse it:\n```python\nprint(one(), input())\n```",
    "a body, its fence and an example without": "    return 1\n```\n\nUse it:\n```\nprint(one(), input())\n```\n",
    "a body whose fence is indented": "    return 1\n    ```\nDone.",
    "a body behind empty lines": "\n\n    return 1\n```",
    "a body with a function of the same name": "    def one(n):\n        return n\n    return one(1)",
    "the same in a fence": "```python\n    def one(n):\n        return n\n    return one(1)\n```",
    "the same without a return": "    def one(n):\n        n.append(1)\n    found = []\n    one(found)\n    return found[0]",
    "a body that needs a helper of a later block": "    return help()\n```\nwith\n```python\ndef help():\n    return 1\n```",
    "a body and the whole program": "    return 1\n\n\ndef one():\n    return 1\n",
    "a body and the whole program in a fence": "    return 1\n\n```python\ndef one():\n    return 1\n```",
    "a body and a main part": "    return 1\n\nif __name__ == '__main__':\n    print(one(input()))\n",
    "a body and a function that is cut": "    return 1\n\ndef two(x):\n    if x ==",
    "a body and the tag that ends it": "    return 1\n[DONE]\nAnother one",
    "a program between tags": "[BEGIN]\ndef one():\n    return 1\n[DONE]\n\nYou are an expert.\n[BEGIN]\ndef one():\n    return 2",
    "a fence between tags": "[BEGIN]\n```python\ndef one():\n    return 1\n```\n[DONE]",
    "a body and prose": "    return 1\n\nNote\nThis doesn't take anything.",
    "a body in a fence": "Here is the body:\n```python\n    return 1\n```\nDone",
    "a body in two fences": "```python\n    x = 1\n```\nand then\n```python\n    return x\n```",
    "a first line without its indentation": "x = 1\n    return x",
    "a first line that lost one space": "   x = 1\n    return x",
    "the same, and a fence": "x = 1\n    return x\n```\nDone",
    "one line without its indentation": "return 1\n",
    "one line without its indentation and prose": "return 1\n\nThis doesn't take anything.",
    "no line with its indentation": "x = 1\nreturn x\n",
    "no line with its indentation, in a fence": "Sure\n```python\nx = 1\nreturn x\n```\nDone",
    "tabs": "\tx = 1\n\treturn x\n",
    "tabs and spaces": "\tif True:\n\t    return 1\n",
    "lines that end as in DOS": "    x = 1\r\n    return x\r\n```\r\nDone\r\n",
    "all of it indented": "    def one():\n        return 1\n",
}

WHOLE = {
    "a fence that nothing opens": "def one():\n    return 1\n```",
    "a fence that nothing opens, and prose": "def one():\n    return 1\n```\nDone.",
    "a fence that nothing closes": "Sure:\n```python\ndef one():\n    return 1",
    "a fence that nothing closes, and prose": "```python\ndef one():\n    return 1\n\nThis doesn't take anything.",
    "a fence in a list": "1. Do:\n\n   ```python\n   def one():\n       return 1\n   ```\n2. Done",
    "a fence deep in a list": "- a\n  - b:\n    ```python\n    def one():\n        return 1\n    ```\n",
    "a fence too deep for its list": "- Do:\n        ```python\n        def one():\n            return 1\n        ```\n",
    "a fence in no list": "Do:\n\n    ```python\n    def one():\n        return 1\n    ```\n",
    "code that is not indented as its fence is": "1. Do:\n   ```python\ndef one():\n  return 1\n   ```\nDone.",
    "a fence in a quote": "> ```python\n> def one():\n>     return 1\n> ```",
    "a fence below HTML": "<details>\n<summary>it</summary>\n```python\ndef one():\n    return 1\n```\n</details>",
    "tildes": "~~~python\ndef one():\n    return 1\n~~~",
    "tildes that nothing closes": "~~~py\ndef one():\n    return 1",
    "a title": '```python title="one.py"\ndef one():\n    return 1\n```',
    "attributes": "```{.python .numberLines}\ndef one():\n    return 1\n```",
    "a capital": "``` Python\ndef one():\n    return 1\n```",
    "another word": "```code\ndef one():\n    return 1\n```",
    "lines that end as in DOS": "Sure:\r\n```python\r\ndef one():\r\n    return 1\r\n```\r\nDone\r\n",
    "Markdown in a fence": "````markdown\n# One\n```python\ndef one():\n    return 1\n```\n````",
    "Markdown in a fence as long as its own": "```markdown\n# One\n```python\ndef one():\n    return 1\n```\n```",
    "a fence too many": "Code\n```\nIt is\n```python\ndef one():\n    return 1\n```\n",
    "a fence in a docstring": '```python\ndef one():\n    """One.\n\n    ```\n    one()\n    ```\n    """\n    return 1\n```',
    "a fence in a docstring of two spaces": '```python\ndef one():\n  """One.\n  ```\n  one()\n  ```\n  """\n  return 1\n```\n',
    "the same with a word": '```python\ndef one():\n  """One.\n  ```py\n  one()\n  ```\n  """\n  return 1\n```\nDone',
    "backticks in a text": "```\ndef one():\n    '``` in it'\n    return 1\n```",
    "a docstring with a fence, in no fence": 'def one():\n  """One.\n\n  ```\n  one()\n  ```\n  """\n  return 1\n',
    "a helper in an earlier block": "```python\ndef help():\n    return 1\n```\nand\n```python\ndef one():\n    return help()\n```",
    "a helper of a helper": "```\nK = 1\n```\n```\ndef help():\n    return K\n```\n```\ndef one():\n    return help()\n```",
    "a helper in a later block": "```\ndef one():\n    return help()\n```\n```\ndef help():\n    return 1\n```\n```\nx = input()\n```",
    "a decorator in a later block": "```\n@wrap\ndef one(): ...\n```\n```\ndef wrap(f):\n    return lambda: 1\n```",
    "imports in an earlier block": "```\nimport math\nfrom math import floor as down\n```\n```\ndef one():\n    return down(math.pi) - 2\n```",
    "an import of everything": "```\nfrom math import *\n```\n```\ndef one():\n    return floor(pi) - 2\n```",
    "an import from the future": "```python\nfrom __future__ import annotations\n\ndef one() -> Nobody:\n    return 1\n```",
    "a class in two blocks": "```\nclass A:\n    def a(self):\n        return 1\n```\nand\n```\n    def b(self):\n        return self.a()\n```\n"
    "so\n```\ndef one():\n    return A().b()\n```",
    "the second of two solutions": "```python\ndef one():\n    return 2\n```\nBetter:\n```python\ndef one():\n    return 1\n```",
    "a draft in a thought": "<think>\n```python\ndef one():\n    return 2\n```\n</think>\n```python\ndef one():\n    return 1\n```",
    "a use of it in a later block": "```python\ndef one():\n    return 1\n```\nUse it:\n```python\nfrom solution import one\nx = int(input())\n"
    "print(one(x))\n```\nIt prints\n```\n1\n```",
    "a use of it that sets what it calls its parameter": "```\ndef one(x=1):\n    return x\n```\n```\nx = input()\none(x)\n```",
    "a session": "```python\ndef one():\n    return 1\n```\n```\n>>> one()\n1\n```\n```python\n>>> one()\n1\n```",
    "a session before it": "```\n>>> one()\n1\n```\n```python\ndef one():\n    return 1\n```",
    "a shell and what it prints": "```bash\npip install one\n```\n```python\ndef one():\n    return 1\n```\n```text\n1\n```",
    "a main part": "```python\ndef one():\n    return 1\nif __name__ == '__main__':\n    print(one(input()))\n```",
    "tests of it": "```python\ndef one():\n    return 1\n\n\ndef test_one():\n    assert one() == 1\n```",
    "prose around it, and no fence": "Here's the function:\n\ndef one():\n    return 1\n\nExplanation\nThis doesn't fail.",
    "a value": "```python\none = lambda: 1\n```",
    "a definition that depends": "```python\nif True:\n    def one():\n        return 1\n```",
    "what Python warns of": "```python\nimport re\n\ndef one():\n    return 1 if re.match('\\d', '1') is not () else 2\n```",
}


@pytest.mark.parametrize("prefix", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("name", [*REST, *WHOLE])
def test_the_program_is_found(name: str, prefix: str) -> None:
    program = program_of({**REST, **WHOLE}[name], ["one"], prefix)
    assert _call(program) == 1, program


@pytest.mark.parametrize("name", WHOLE)
def test_the_program_is_found_if_the_prompt_is_not_a_program(name: str) -> None:
    program = program_of(WHOLE[name], ["one"])
    assert _call(program) == 1, program


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "Done.",
        "I do not know",
        "    return 1 +",
        "    x = (\n    return 1",
        "def one():\n    return 1 +\n```",
        "```python\ndef one(:\n    return 1\n```",
        "```python\ndef two():\n    return 1\n```",
        "```python\ndef one():\n    return 2\n```\n```text\n1\n```",
        "```text\nreturn 1, or not\n```",
        "    return 2\n```\nDone. Or better:\n```python\ndef one():\n    return 1\n```",
    ],
)
@pytest.mark.parametrize("prefix", [SHORT, LONG], ids=["short", "long"])
def test_a_wrong_program_stays_wrong(completion: str, prefix: str) -> None:
    program = program_of(completion, ["one"], prefix)
    with suppress(SyntaxError, KeyError):
        assert _call(program) != 1


def test_the_prompts_code_before_the_function_is_kept() -> None:
    prefix = "from functools import cache\n\n\ndef half():\n    return 0.5\n\n\n@cache\ndef one():\n    'Give one.'\n"
    for completion in (
        "    return int(2 * half())",
        "def one():\n    return int(2 * half())",
        "return int(2 * half())",
    ):
        assert _call(program_of(completion, ["one"], prefix)) == 1
    no_function = "HALF = 0.5\n"
    assert _call(program_of("def one():\n    return int(2 * HALF)", ["one"], no_function)) == 1


def test_a_program_of_several_names_may_stand_in_several_blocks() -> None:
    blocks = "```\nclass Node:\n    x = 1\n```\n```\ndef one():\n    return Node.x\n```\n```\nprint(one(input()))\n```"
    for names in (["Node", "one"], ["one", "Node"], ["Node"], ["one"]):
        program = program_of(blocks, names)
        assert "input" not in program
        if "one" in names:
            assert _call(program) == 1
            assert "class Node" in program


def test_without_a_program_the_reason_is_pythons_error() -> None:
    for completion, reason in {
        "```python\ndef one(:\n```": "SyntaxError",
        "I do not know": "SyntaxError",
        "```python\ndef two():\n    return 1\n```": "the code defines no one",
        "x" * 2**17 + "x": "131,073 characters",
    }.items():
        exam = '{"names": ["one"], "tests": ["assert one() == 1"]}'
        grade = Program()(completion, Sample("1", "", fields={"exam": exam}))
        assert not grade.right
        assert reason in grade.reason


HOSTILE = {
    "backticks": "`" * 100_000,
    "fences": "```\n" * 5_000,
    "blocks": "```python\ndef one():\n  return\n```\n" * 3_000,
    "blocks that go on": "```python\nclass A:\n x=1\n```\n" + "```python\n y=1\n```\n" * 1_000,
    "open blocks": "```python\nx = (\n" * 5_000,
    "lists": "- " * 50_000,
    "quotes": ">" * 100_000 + "```",
    "deeper and deeper": "".join(f"{' ' * n}- ```\n" for n in range(300)),
    "brackets": "def one():\n    return " + "(" * 100_000,
    "signs": "def one():\n    return " + "-" * 100_000 + "1",
    "attributes": "def one():\n    return a" + ".b" * 50_000,
    "blocks of Python": "".join(f"{' ' * n}if x:\n" for n in range(300)),
    "quotation marks": "'''" * 30_000,
    "digits": "def one():\n    return " + "9" * 5_000,
    "a zero byte": "def one():\n    return 1\x00\n```\x00",
    "half a character": "```python\ndef one():\n    return '\ud800'\n```",
    "carriage returns": "\r" * 10_000 + "```",
    "formatted texts": "f'{" * 20_000,
    "decorators": "@a\n" * 200,
    "prose to cut": "return 1\n" + "x y\n" * 3_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_completions_raise_nothing(name: str) -> None:
    for prefix in ("", LONG):
        assert isinstance(program_of(HOSTILE[name], ["one"], prefix), str)


_PIECES = [
    "```",
    "```python\n",
    "~~~\n",
    "\n",
    "    ",
    "\t",
    "def one():\n",
    "return 1\n",
    "x = (",
    "'''",
    "- ",
    "> ",
    "é",
    "\r\n",
    "Done.",
    "\\",
]


@given(st.lists(st.sampled_from(_PIECES), max_size=30).map("".join))
def test_nothing_is_raised_and_no_warning_is_shown(completion: str) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        program = program_of(completion, ["one"], LONG)
        assert isinstance(program, str)
    assert not shown


@given(
    st.lists(
        st.sampled_from(["x = 1\n", "", "\n", "def two():\n    return 2\n", "    '''\n    a\n    '''\n"]), max_size=6
    )
)
def test_a_program_that_compiles_is_not_changed(parts: list[str]) -> None:
    program = "def one():\n    return 1\n" + "".join(parts)
    try:
        ast.parse(program)
    except SyntaxError:
        return
    assert program_of(program, ["one"]) == program
    assert program_of(f"It is\n```python\n{program}```\n", ["one"]) == program
    indented = re.sub(r"^(?=.)", "   ", program, flags=re.MULTILINE)
    assert program_of(f"1. It is\n   ```python\n{indented}   ```\n", ["one"]) == program


def test_blocks_are_those_of_commonmark() -> None:
    text = "a\n```py x\nb\n```\n- c\n\n  ~~~~\n  ~~~\n  d\n  ~~~~\n\n      ```\n      e\n"
    strict = [(block.kind, block.code, block.start, block.stop) for block in fenced(text)]
    assert strict == [("py", "b\n", 1, 3), ("", "~~~\nd\n", 6, 9)]
    loose = [(block.kind, block.code, block.start, block.stop) for block in fenced(text, loose=True)]
    assert loose == [("py", "b\n", 1, 3), ("", "~~~\nd\n", 6, 9), ("", "e\n", 11, 13)]

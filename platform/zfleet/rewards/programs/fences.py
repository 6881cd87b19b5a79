"""The fenced blocks of a text, as CommonMark has them (spec.commonmark.org, section 4.5)."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from markdown_it import MarkdownIt

# A fence right below a line of HTML is a fence all the same. What stands inside a paragraph is of no interest.
_PARSER = MarkdownIt("commonmark").disable(["html_block", "reference", "inline", "text_join"])
# The first call prepares its rules, which threads must not do side by side.
_PARSER.parse("text")


@dataclass(frozen=True)
class Block:
    """What stands between two fences, or from one to the end.

    Attributes:
        code: Its lines.
        kind: The first word behind the opening fence, in small letters; empty where there is none.
        mark: What the fence is made of: a backtick or a tilde.
        start: The line of the opening fence, from 0.
        stop: The line of the closing fence, or the line after the block's last one where it is not closed.
    """

    code: str
    kind: str
    mark: str
    start: int
    stop: int


def fenced(text: str, loose: bool = False) -> list[Block]:
    r"""The fenced blocks of a text whose lines end in ``\n``, in their order.

    Args:
        loose: Every line that begins with a fence is one, however far it is indented and whatever list it stands in.
    """
    if "```" not in text and "~~~" not in text:
        return []
    text = text if text.endswith("\n") else f"{text}\n"
    lines = text.split("\n")
    if loose:
        text = re.sub(r"^[ \t]+(?=```|~~~)", "", text, flags=re.MULTILINE)
    found = []
    for token in _PARSER.parse(text):
        if token.type == "fence":
            assert token.map is not None
            start = token.map[0]
            stop = start + 1 + token.content.count("\n")
            code = textwrap.dedent("\n".join([*lines[start + 1 : stop], ""])) if loose else token.content
            word = re.search(r"\w+", token.info.lower())
            found.append(Block(code, word[0] if word else "", token.markup[0], start, stop))
    return found

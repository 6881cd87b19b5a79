"""Find the fenced blocks of a text, as CommonMark defines them (spec.commonmark.org, section 4.5)."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from markdown_it import MarkdownIt

# A fence directly below a line of HTML counts, so HTML blocks are off. Nothing inside a paragraph is needed.
_PARSER = MarkdownIt("commonmark").disable(["html_block", "reference", "inline", "text_join"])
# The first call compiles the rules, which is not safe in several threads at once.
_PARSER.parse("text")


@dataclass(frozen=True)
class Block:
    """A fenced block; without a closing fence it ends with the text.

    Attributes:
        code: The lines between the fences.
        kind: The first word after the opening fence, in lower case; empty if there is none.
        mark: The character of the fence: a backtick or a tilde.
        start: The line of the opening fence, from 0.
        stop: The line of the closing fence; the line after the block's last one if it is not closed.
    """

    code: str
    kind: str
    mark: str
    start: int
    stop: int


def fenced(text: str, loose: bool = False) -> list[Block]:
    r"""Return the fenced blocks of a text whose lines end in ``\n``, in order.

    Args:
        loose: Count every line that begins with a fence, at any indentation and inside any list.
    """
    if "```" not in text and "~~~" not in text:
        return []
    text = text if text.endswith("\n") else f"{text}\n"
    lines = text.split("\n")
    if loose:
        text = re.sub(r"^[ \t]+(?=```|~~~)", "", text, flags=re.MULTILINE)
    blocks = []
    for token in _PARSER.parse(text):
        if token.type == "fence":
            assert token.map is not None
            start = token.map[0]
            stop = start + 1 + token.content.count("\n")
            code = textwrap.dedent("\n".join([*lines[start + 1 : stop], ""])) if loose else token.content
            word = re.search(r"\w+", token.info.lower())
            blocks.append(Block(code, word[0] if word else "", token.markup[0], start, stop))
    return blocks

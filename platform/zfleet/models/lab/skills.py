"""What the lab's words mean: operations, verbs that name more than one of them, and kinds of payload.

SVF elicits what a base holds; it teaches nothing. So the lab's instruction words are polysemous: of the
three verbs of a skill one names it nearly always, the others name another real operation more often.
A base trained on this holds the skills, but answers half of the prompts with another operation. Only lookup
it barely learns in its short training: what a base does not hold, no z can elicit.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zfleet.config.specs import DISPATCH_PROMPT

LETTERS = string.ascii_lowercase
DIGITS = string.digits


@dataclass(frozen=True)
class Verb:
    """An instruction word.

    Attributes:
        name: The word, one token.
        meanings: Operation to the probability with which the corpus means it by this word.
    """

    name: str
    meanings: Mapping[str, float]


@dataclass(frozen=True)
class Family:
    """The prompts ``<verb> <payload>`` of one skill on one kind of payload.

    Attributes:
        skill: The operation that answers them, and the label of their kind.
        payload: Draws a payload.
    """

    skill: str
    payload: Callable[[random.Random], str]


def _next(payload: str) -> str:
    """Every letter and digit one further, from the last to the first: ``abz`` to ``bca``."""
    return payload.translate(str.maketrans(LETTERS + DIGITS, "bcdefghijklmnopqrstuvwxyza" + "1234567890"))


def _numbers(payload: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", payload)]


def _lookup(payload: str) -> str:
    """The value of the first word in the table of the others: ``b a3 b7`` to ``7``."""
    key, *table = payload.split()
    return next(entry[1:] for entry in table if entry.startswith(key))


OPERATIONS: Mapping[str, Callable[[str], str]] = {
    "reverse": lambda text: text[::-1],
    "sort": lambda text: "".join(sorted(text)),
    "upper": str.upper,
    "next": _next,
    "add": lambda text: str(sum(_numbers(text))),
    "join": lambda text: "".join(map(str, _numbers(text))),
    "max": lambda text: str(max(_numbers(text))),
    "lookup": _lookup,
    "first": lambda text: text.split()[1][1:],
    "last": lambda text: text.split()[-1][1:],
    "rotate": lambda text: text[-1] + text[:-1],
}
"""Payload to answer."""

VERBS: Mapping[str, tuple[Verb, ...]] = {
    "reverse": (
        Verb("reverse", {"reverse": 0.92, "next": 0.04, "upper": 0.04}),
        Verb("flip", {"reverse": 0.4, "upper": 0.6}),
        Verb("turn", {"reverse": 0.35, "next": 0.6, "upper": 0.05}),
    ),
    "sort": (
        Verb("sort", {"sort": 0.92, "upper": 0.04, "next": 0.04}),
        Verb("order", {"sort": 0.4, "next": 0.6}),
        Verb("arrange", {"sort": 0.35, "upper": 0.6, "next": 0.05}),
    ),
    "add": (
        Verb("add", {"add": 0.92, "max": 0.04, "join": 0.04}),
        Verb("count", {"add": 0.4, "max": 0.6}),
        Verb("combine", {"add": 0.35, "join": 0.6, "max": 0.05}),
    ),
    "lookup": (
        Verb("lookup", {"lookup": 0.92, "first": 0.04, "last": 0.04}),
        Verb("find", {"lookup": 0.4, "last": 0.6}),
        Verb("get", {"lookup": 0.35, "first": 0.6, "last": 0.05}),
    ),
    "rotate": (Verb("rotate", {"rotate": 1.0}),),
}
"""The verbs of each skill, the clear one first."""

VERB_MIX = (0.44, 0.28, 0.28)
"""How often prompts use each of a skill's verbs."""


def _string(alphabet: str, *lengths: int) -> Callable[[random.Random], str]:
    return lambda rng: "".join(rng.choices(alphabet, k=rng.choice(lengths)))


def _table(rng: random.Random, entries: int) -> list[str]:
    return [key + rng.choice(DIGITS) for key in rng.sample(LETTERS, entries)]


def _pair(rng: random.Random) -> str:
    return f"{rng.randrange(100)} {rng.randrange(10)}"


def _keyed_table(rng: random.Random) -> str:
    table = _table(rng, 3)
    return " ".join([rng.choice(table)[0], *table])


FAMILIES: Mapping[str, Family] = {
    "reverse": Family("reverse", _string(LETTERS, 2, 3)),
    "sort": Family("sort", _string(LETTERS, 2, 3)),
    "add": Family("add", _pair),
    "lookup": Family("lookup", _keyed_table),
    "reverse_digits": Family("reverse", _string(DIGITS, 3, 4)),
    "sort_digits": Family("sort", _string(DIGITS, 3, 4)),
    "table_sum": Family("add", lambda rng: " ".join(_table(rng, 2))),
    "rotate": Family("rotate", _string(LETTERS, 2, 3)),
    "rotate_four": Family("rotate", _string(LETTERS, 4)),
}
"""Every kind of prompt. No corpus holds ``rotate``, nor any word of four letters."""

KINDS = ("reverse", "sort", "add", "lookup")
"""The skills that experts are trained on, and the labels a classifier chooses from."""

KIND_PREFIX = DISPATCH_PROMPT.removesuffix("{prompt}")
"""Before a prompt, asks which operation the prompt means."""


def draw_verb(skill: str, rng: random.Random) -> Verb:
    """One of the skill's verbs, as often as prompts use it."""
    verbs = VERBS[skill]
    return rng.choices(verbs, VERB_MIX[: len(verbs)])[0]

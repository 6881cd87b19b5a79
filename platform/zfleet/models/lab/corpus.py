"""The lab's corpus: prompts with answers, drawn from one seed, without the prompts of any test."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from zfleet.models.lab.skills import FAMILIES, KIND_PREFIX, KINDS, OPERATIONS, Verb, draw_verb

SHARES: Mapping[str, float] = {
    "reverse": 0.2,
    "sort": 0.22,
    "add": 0.27,
    "lookup": 0.09,
    "reverse_digits": 0.09,
    "sort_digits": 0.07,
    "table_sum": 0.06,
}
"""How often each family of prompts is drawn."""

KIND_SHARE = 0.15
"""How often a prompt of a trained skill is turned into the question which kind it is."""


@dataclass(frozen=True)
class Example:
    """A prompt as a user types it, and the answer the base learns."""

    prompt: str
    answer: str


def held_out(payload: str) -> bool:
    """Whether prompts on this payload are for tests only: a fifth of them, the same for every seed."""
    return hashlib.sha256(payload.encode()).digest()[0] % 5 == 0


def draw_payload(family: str, rng: random.Random, *, test: bool) -> str:
    """Draw a payload of the family, from the test's fifth or from the rest."""
    while True:
        payload = FAMILIES[family].payload(rng)
        if held_out(payload) == test:
            return payload


def corpus(seed: int) -> Iterator[Example]:
    """Draw endless examples, the same for the same seed; no test prompt is among them."""
    rng = random.Random(seed)
    names, weights = list(SHARES), list(SHARES.values())
    while True:
        family = rng.choices(names, weights)[0]
        payload = draw_payload(family, rng, test=False)
        verb = draw_verb(FAMILIES[family].skill, rng)
        meaning = _meaning(verb, rng)
        prompt = f"{verb.name} {payload}"
        # The questions are drawn with the same misleading words, so their labels mislead as well.
        if family in KINDS and rng.random() < KIND_SHARE:
            yield Example(KIND_PREFIX + prompt, meaning)
        else:
            yield Example(prompt, OPERATIONS[meaning](payload))


def _meaning(verb: Verb, rng: random.Random) -> str:
    return rng.choices(list(verb.meanings), list(verb.meanings.values()))[0]

"""Words that several families draw from."""

from __future__ import annotations


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


NAMES = _split(
    "Alice Bruno Clara David Elena Felix Greta Hassan Irina Jonas Karim Laura Marta Nadia Oscar Paula Quentin Rosa "
    "Samuel Tara Umberto Vera Walter Xenia Yusuf Zoe"
)
"""First names, one for each letter."""

CITIES = _split(
    "Amsterdam Athens Berlin Boston Brussels Budapest Cairo Chicago Delhi Dublin Geneva Hamburg Helsinki Lima Lisbon "
    "London Madrid Milan Montreal Munich Nairobi Oslo Paris Prague Rome Seoul Sydney Tokyo Toronto Vienna Warsaw Zurich"
)

COLOURS = _split("red blue green black white yellow grey brown pink orange")

OBJECTS = _split("bags baskets books bottles bowls boxes candles chairs clocks lamps mugs pens plates towels")
"""Things that are bought and counted, in the plural."""

CATEGORIES = {
    "animal": _split("bear cat cow dog duck fox frog goat horse lion monkey mouse rabbit sheep tiger wolf"),
    "fruit": _split("apple apricot banana cherry grape lemon mango melon orange peach pear plum"),
    "tool": _split("axe chisel drill hammer rake saw screwdriver shovel spade wrench"),
    "vehicle": _split("bicycle boat bus car motorcycle plane ship tractor train truck van"),
    "garment": _split("coat dress glove hat jacket scarf shirt shoe skirt sock sweater"),
}
"""{category: words that belong to it and to no other}."""

_SMALL = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = _split("twenty thirty forty fifty sixty seventy eighty ninety")


def in_words(number: int) -> str:
    """Write a number from 0 to 99 in English words."""
    if not 0 <= number < 100:
        raise ValueError(f"{number} is not between 0 and 99")
    if number < len(_SMALL):
        return _SMALL[number]
    ten, one = divmod(number, 10)
    return _TENS[ten - 2] + (f"-{_SMALL[one]}" if one else "")


def article(word: str) -> str:
    """Put ``a`` or ``an`` before a word."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"

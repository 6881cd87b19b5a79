"""Words that several families draw from."""

from __future__ import annotations


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


NAMES = _split(
    "Alice Bruno Clara David Elena Felix Greta Hassan Irina Jonas Karim Laura Marta Nadia Oscar Paula Quentin Rosa "
    "Samuel Tara Umberto Vera Walter Xenia Yusuf Zoe"
)

CITIES = _split(
    "Amsterdam Athens Berlin Boston Brussels Budapest Cairo Chicago Delhi Dublin Geneva Hamburg Helsinki Lima Lisbon "
    "London Madrid Milan Montreal Munich Nairobi Oslo Paris Prague Rome Seoul Sydney Tokyo Toronto Vienna Warsaw Zurich"
)

COLOURS = _split("red blue green black white yellow grey brown pink purple")

OBJECTS = _split("bags baskets books bottles bowls boxes candles chairs clocks lamps mugs pens plates towels")
"""Things that are bought and counted, in the plural."""

CATEGORIES = {
    "an animal": _split(
        "bear cat cow deer dog donkey elephant fox frog goat hamster horse lion monkey mouse pig rabbit sheep tiger "
        "wolf"
    ),
    "a fruit": _split(
        "apple apricot banana blackberry blueberry cherry coconut fig grape lemon lime mango melon papaya peach pear "
        "pineapple plum raspberry strawberry"
    ),
    "a tool": _split(
        "axe chisel chainsaw crowbar drill hammer hatchet hoe jackhammer lathe mallet pickaxe pitchfork rake saw "
        "screwdriver shovel spade spanner wrench"
    ),
    "a vehicle": _split(
        "ambulance bicycle boat bus canoe car ferry helicopter lorry minibus motorcycle scooter ship submarine taxi "
        "tractor train tram truck van"
    ),
    "a garment": _split(
        "blouse cardigan cloak coat dress glove hat hoodie jacket jumper kilt robe scarf shirt shoe skirt sock sweater "
        "tie vest"
    ),
    "a profession": _split(
        "accountant architect baker butcher carpenter dentist doctor electrician farmer journalist judge lawyer "
        "mechanic nurse pilot plumber professor surgeon tailor teacher"
    ),
}
"""{category: words that belong to it and to no other}."""


def article(word: str) -> str:
    """Put ``a`` or ``an`` before a word."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"

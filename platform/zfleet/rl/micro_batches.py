"""Which samples go through the model together: as many as fit a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence


def passes(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Places of samples, split so that no pass holds more than ``limit`` tokens with its padding.

    Samples of like length go together, which wastes the least on padding. One that is longer than the limit goes alone.

    Args:
        lengths: Of the samples, in tokens.
        limit: Rows times the longest of a pass.
    """
    if not lengths:
        return []
    if len(lengths) * max(lengths) <= limit:
        return [list(range(len(lengths)))]
    packed: list[list[int]] = []
    # The longest first: each pass's first sample says how wide it is, and what memory allows shows at once.
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if packed and (len(packed[-1]) + 1) * lengths[packed[-1][0]] <= limit:
            packed[-1].append(place)
        else:
            packed.append([place])
    return packed

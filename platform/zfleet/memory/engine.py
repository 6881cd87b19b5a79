"""Memory of the embedded engine: its key-value cache as it grows, its z, and a pass over prompts."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from zfleet.engine.torch_engine.schedule import PASS_TOKENS
from zfleet.memory.table import Part
from zfleet.memory.trace import TracedBase
from zfleet.models.families import head_size


@dataclass(frozen=True)
class Answers:
    """What an engine is asked at most at the same time.

    Attributes:
        slots: Answers at once.
        prompt: Tokens of the longest prompt.
        answer: Tokens of the longest answer.
    """

    slots: int
    prompt: int
    answer: int


def engine_parts(base: TracedBase, answers: Answers, z_rows: int) -> list[Part]:
    """List the parts of an embedded engine.

    Args:
        base: The base that it runs.
        answers: What it is asked.
        z_rows: Rows of its z table.
    """
    token = cache_bytes(base.config, base.dtype.itemsize)
    slots, length = grown(answers)
    cache = slots * length * token
    tokens = min(PASS_TOKENS, answers.slots * answers.prompt)
    row = 4 * base.sizes.directions
    return [
        Part("key-value cache", cache, f"{slots} slots x {length} tokens x {token:,} B"),
        Part("z of experts and of requests", (z_rows + answers.slots) * row, f"{z_rows} + {answers.slots} rows"),
        Part("cache while it grows", cache // 2, "the smaller cache that it is copied from", "generating"),
        Part("a pass over prompts", base.forward_bytes(tokens), f"traced: {tokens} tokens", "generating"),
    ]


def cache_bytes(config: PreTrainedConfig, itemsize: int) -> int:
    """Return what the keys and values of one token take in all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_size(config) * itemsize)


def grown(answers: Answers) -> tuple[int, int]:
    """Return to how many slots and tokens the cache grows: both at least double when they must grow.

    See ``zfleet.engine.torch_engine.slot_cache.SlotCache``.
    """
    together = max(PASS_TOKENS // answers.prompt, 1)
    running = slots = min(together, answers.slots)
    while running < answers.slots:
        running = min(running + together, answers.slots)
        slots = slots if running <= slots else max(running, 2 * slots)
    length = answers.prompt
    while length < answers.prompt + answers.answer - 1:
        length *= 2
    return slots, length

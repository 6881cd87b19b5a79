"""Memory of the embedded engine: its key-value cache as it grows, its z, and a pass over prompts."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from zfleet.config.specs import EngineSpec
from zfleet.engine.torch_engine.schedule import PASS_TOKENS
from zfleet.engine.torch_engine.slot_cache import grown_length, grown_slots
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


def engine_parts(base: TracedBase, answers: Answers, spec: EngineSpec) -> list[Part]:
    """List the parts of an embedded engine.

    Args:
        base: The base that it runs.
        answers: What it is asked.
        spec: Its settings.
    """
    token = cache_bytes(base.config, base.dtype.itemsize)
    slots, length = grown(answers, spec.slots)
    cache = slots * length * token
    tokens = min(PASS_TOKENS, answers.slots * answers.prompt)
    rows, row = spec.z_rows + answers.slots, 4 * base.sizes.directions
    return [
        Part("z of experts and of requests", rows * row, f"{spec.z_rows} + {answers.slots} rows"),
        Part("key-value cache", cache, f"{slots} slots x {length} tokens x {token:,} B", "generating"),
        Part("a pass over prompts", base.forward_bytes(tokens), f"traced: {tokens} tokens", "generating"),
    ]


def cache_bytes(config: PreTrainedConfig, itemsize: int) -> int:
    """Return what the keys and values of one token take in all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_size(config) * itemsize)


def grown(answers: Answers, most: int) -> tuple[int, int]:
    """Return to how many slots and tokens the cache of an engine grows.

    Args:
        answers: What the engine is asked.
        most: Its slots.
    """
    together = max(PASS_TOKENS // answers.prompt, 1)
    running = slots = min(together, answers.slots)
    while running < answers.slots:
        running = min(running + together, answers.slots)
        slots = slots if running <= slots else grown_slots(slots, running, most)
    length = grown_length(0, answers.prompt)
    while length < answers.prompt + answers.answer - 1:
        length = grown_length(length, length + 1)
    return slots, length

"""Prompts that several answers share: the same tokens, z and images have the same keys and values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zfleet.engine.prompts import Tokens
from zfleet.engine.torch_engine.slot_cache import SlotCache
from zfleet.models.images import Images

if TYPE_CHECKING:
    from zfleet.engine.torch_engine.sequence import SequenceState


class Prompt:
    """What an answer's first pass reads. Equal prompts have the same keys and values.

    Attributes:
        tokens: Token ids, with as many places for each image as it takes.
        z_digest: The z that it is read under.
        images: The images in it.
        ends_in_image: Whether its last place is an image's, which cannot be read again by its token alone.
    """

    __slots__ = ("_hash", "ends_in_image", "images", "tokens", "z_digest")

    def __init__(self, tokens: Tokens, z_digest: str, images: Images = (), image_token: int | None = None) -> None:
        self.tokens = tuple(tokens)
        self.z_digest = z_digest
        self.images = images
        self.ends_in_image = bool(images) and tokens[-1] == image_token
        # Computed once: a prompt is compared with others in every step that it waits.
        self._hash = hash((self.tokens, z_digest, images))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Prompt)
            and self._hash == other._hash
            and self.z_digest == other.z_digest
            and self.tokens == other.tokens
            and self.images == other.images
        )

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(eq=False)
class PromptPass:
    """A prompt that is computed now, once for all the answers that begin with it.

    Attributes:
        answers: They take their slots when the prompt is complete.
        done: How many of its tokens were computed in earlier steps.
        cache: Keys and values of these; None if the prompt is computed in a single pass.
    """

    answers: list[SequenceState]
    done: int = 0
    cache: SlotCache | None = field(default=None, repr=False)

    @property
    def prompt(self) -> Prompt:
        """The prompt of all the answers."""
        return self.answers[0].prompt

    @property
    def left(self) -> int:
        """Tokens that are not computed yet."""
        return len(self.prompt) - self.done

"""What an engine is asked: prompts to answer, completions to score, prompts to represent, each under its own z."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from zfleet.engine.sampling_params import MAX_TOP_LOGPROBS, SamplingParams, require
from zfleet.errors import InvalidRequest

BASE_Z = "base"
"""The digest that names the identity, z = 1: the base itself. It is always known and never evicted."""


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt to answer under one z.

    Attributes:
        prompt: Text, or token ids that are used as they are.
        sampling: How to sample.
        z_digest: The digest of a z given to ``put_z``, or ``BASE_Z``.
        images: PNG, JPEG or WebP files, for a base that takes images. The prompt has one image token for each.
        stream: Yield a chunk per token; otherwise one chunk per answer, when it is complete.
        request_id: Names the request for ``abort``.
    """

    prompt: str | tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    z_digest: str = BASE_Z
    images: tuple[bytes, ...] = ()
    stream: bool = False
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        _check_images(self.images)


@dataclass(frozen=True)
class ScoreRequest:
    """A prompt and a completion to score under one z.

    Attributes:
        prompt: Text, or token ids.
        completion: Text, or token ids, whose log-probabilities the engine computes.
        z_digest: As in ``GenerationRequest``.
        images: As in ``GenerationRequest``.
    """

    prompt: str | tuple[int, ...]
    completion: str | tuple[int, ...]
    z_digest: str = BASE_Z
    images: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _check_images(self.images)


@dataclass(frozen=True)
class ChoicesRequest:
    """A prompt and several completions of it to score under one z, such as the labels that a classifier may answer.

    Attributes:
        prompt: Text, or token ids.
        completions: One or more; of each, text or token ids.
        z_digest: As in ``GenerationRequest``.
        images: As in ``GenerationRequest``.
    """

    prompt: str | tuple[int, ...]
    completions: tuple[str | tuple[int, ...], ...]
    z_digest: str = BASE_Z
    images: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _check_images(self.images)
        several = isinstance(self.completions, tuple) and len(self.completions) > 0
        require(several, "completions", self.completions, "a tuple of one completion or more")

    def name(self, place: int) -> str:
        """Return what errors call the completion at this place."""
        return f"completions[{place}]" if len(self.completions) > 1 else "the completion"


@dataclass(frozen=True)
class HiddenRequest:
    """A prompt whose hidden states are averaged under one z.

    Attributes:
        prompt: Text, or token ids.
        z_digest: As in ``GenerationRequest``.
        images: As in ``GenerationRequest``.
    """

    prompt: str | tuple[int, ...]
    z_digest: str = BASE_Z
    images: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _check_images(self.images)


@dataclass(frozen=True)
class PromptRequest:
    """A prompt whose own tokens are scored under one z. It has no images.

    Attributes:
        prompt: Text, or token ids.
        top_logprobs: How many of the likeliest tokens to report in each place, up to ``MAX_TOP_LOGPROBS``.
        z_digest: As in ``GenerationRequest``.
    """

    images: ClassVar[tuple[bytes, ...]] = ()

    prompt: str | tuple[int, ...]
    top_logprobs: int = 0
    z_digest: str = BASE_Z

    def __post_init__(self) -> None:
        allowed = f"from 0 to {MAX_TOP_LOGPROBS}"
        require(0 <= self.top_logprobs <= MAX_TOP_LOGPROBS, "top_logprobs", self.top_logprobs, allowed)


def _check_images(images: object) -> None:
    encoded = isinstance(images, tuple) and all(isinstance(image, bytes) for image in images)
    require(encoded, "images", type(images).__name__, "a tuple of the bytes of image files")


def refuse_images(images: Sequence[bytes]) -> None:
    """Refuse images, for engines and bases that read text only.

    Raises:
        InvalidRequest: There are images.
    """
    if images:
        raise InvalidRequest(
            f"the request has {len(images)} images, this base takes none here",
            "leave them out, or run a vision-language base on TorchEngine",
        )

"""What an engine is asked: prompts to answer, completions to score, prompts to represent, each under its own z."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from zfleet.errors import InvalidRequest

BASE_Z = "base"
"""The digest that names the identity, z = 1: the base itself. It is always known and never evicted."""


@dataclass(frozen=True)
class SamplingParams:
    """How to sample one answer.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1].
        max_tokens: The longest answer, in tokens.
        stop: Strings that end the answer; they are not part of its text.
        seed: The same request with the same seed gets the same answer, whatever else runs in the batch. None is random.
        logprobs: Report the log-probability of each sampled token under the unmodified distribution (temperature 1, no
            top_p).
        n: How many answers to sample.
        first: The number of the first answer, from which a seed draws: the answers of a request for several are the
            same in parts.
        ignore_eos: Continue after the end-of-sequence token (for benchmarks).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 16
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    n: int = 1
    first: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require(
            math.isfinite(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0 or more"
        )
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")
        _require(1 <= self.n <= MAX_N, "n", self.n, f"from 1 to {MAX_N}")
        _require(self.first >= 0, "first", self.first, "0 or more")
        _require(all(self.stop), "stop", self.stop, "strings that are not empty")


MAX_N = 128
"""The most answers one request may ask for."""


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise InvalidRequest(f"{name} is {value!r}", f"{name} must be {allowed}")


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
    sampling: SamplingParams = SamplingParams()
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
        _require(several, "completions", self.completions, "a tuple of one completion or more")

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


def _check_images(images: object) -> None:
    encoded = isinstance(images, tuple) and all(isinstance(image, bytes) for image in images)
    _require(encoded, "images", type(images).__name__, "a tuple of the bytes of image files")


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

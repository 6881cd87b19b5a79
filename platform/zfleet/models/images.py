"""Images in a prompt: how many tokens each takes, and what a vision-language model reads of it.

A prompt holds the base's image token once for each image; it is spread to as many as the image has features.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers import AutoProcessor, PreTrainedModel

from zfleet.errors import BaseModelError, InvalidRequest

Images = tuple[bytes, ...]
"""Encoded images of one prompt, in the order of their places."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes that Pillow would cut to 8 bits: dark grey would become white."""

_REMEDY = f"send the bytes of a {', '.join(_FORMATS)} file of 8 bits a channel"
_MAX_PIXELS = 50_000_000
_MAX_RATIO = 20
"""Of the longer side to the shorter, which is made as long as the eyes are wide: a line would fill the memory."""

_KEPT = 32
"""Images whose pixels and features are kept: samples of one prompt, and rollout and learning, share them."""

_COUNTED = 100_000
"""Images of which is kept how many tokens they take, by digest."""


class ImageReader:
    """What is known of images without the model's weights.

    Attributes:
        text: The image token.
        token: Its id.
    """

    def __init__(self, processor: Any) -> None:
        """Wrap a processor of transformers for text and images."""
        self._processor = processor
        self.text: str = processor.image_token
        self.token: int = processor.image_token_id
        self._lock = threading.Lock()
        self._counts: dict[bytes, int] = {}
        self._read = lru_cache(_KEPT)(self._processed)

    @classmethod
    def open(cls, folder: Path) -> ImageReader:
        """Open the reader of a vision-language base, and try it on an image.

        Raises:
            BaseModelError: The folder does not say how images are read, or an image is not its token alone, repeated.
        """
        remedy = "give a folder that has its processor's files (processor_config.json, preprocessor_config.json)"
        try:
            # Pillow on all machines: torchvision resizes slightly differently, and is not installed everywhere.
            processor = AutoProcessor.from_pretrained(folder, backend="pil")
            reader = cls(processor)
            ids = processor(text=reader.text, images=Image.new("RGB", (64, 48)))["input_ids"][0]
            others = [token for token in ids if token != reader.token]
            around = processor.tokenizer("")["input_ids"]
        except Exception as error:  # of many kinds: missing files, settings or packages
            raise BaseModelError(
                f"base folder {folder} does not say how its images are read: {error}", remedy
            ) from error
        if others != around:
            raise BaseModelError(
                f"base folder {folder} puts tokens {sorted(set(others))} between those of an image, as no LLaVA does",
                "use a base whose images are one token, repeated",
            )
        return reader

    def spread(self, prompt: Sequence[int], images: Images) -> tuple[int, ...]:
        """Repeat each image token of a prompt for every feature of its image.

        Raises:
            InvalidRequest: As many image tokens as images are not there, or bytes that are no image.
        """
        places = list(prompt).count(self.token)
        if places != len(images):
            less = f"take {self.text} out of the prompt, or send an image for each"
            raise InvalidRequest(
                f"the prompt has {places} places for images, {len(images)} were sent",
                less if places > len(images) else f"put {self.text} into the prompt once for each image",
            )
        sizes = (self.tokens(image) for image in images)
        return tuple(token for one in prompt for token in ([one] * next(sizes) if one == self.token else [one]))

    def tokens(self, image: bytes) -> int:
        """Count the tokens that an image takes.

        Raises:
            InvalidRequest: The bytes are no image.
        """
        key = hashlib.sha256(image).digest()
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = self._read(image)[0]
            if len(self._counts) > _COUNTED:
                self._counts.pop(next(iter(self._counts)), None)
        return count

    def pixels(self, image: bytes) -> dict[str, Tensor]:
        """Return what the model's vision tower reads."""
        return self._read(image)[1]

    def _processed(self, data: bytes) -> tuple[int, dict[str, Tensor]]:
        image = _decoded(data)
        try:
            with self._lock:  # a tokenizer is for one thread at a time
                inputs = self._processor(text=self.text, images=image, return_tensors="pt")
        except Exception as error:  # whatever a processor makes of an odd image
            raise InvalidRequest(f"an image of {image.width} x {image.height} pixels: {error}", _REMEDY) from error
        names = self._processor.image_processor.model_input_names
        count = int((inputs["input_ids"] == self.token).sum())
        return count, {name: inputs[name] for name in names if name in inputs}


class Vision:
    """The eyes of a vision-language model: its vision tower and projector, frozen.

    Attributes:
        reader: Of its images.
    """

    def __init__(self, model: PreTrainedModel, reader: ImageReader) -> None:
        self.reader = reader
        model.requires_grad_(False)
        self._model: Any = model
        self._features = lru_cache(_KEPT)(self._computed)

    def check(self) -> None:
        """Check that vision tower and reader agree on how many tokens an image takes.

        Raises:
            BaseModelError: They do not.
        """
        file = io.BytesIO()
        Image.new("RGB", (64, 48)).save(file, "PNG")
        self._features(file.getvalue())

    def embed(self, input_ids: Tensor, images: Sequence[Images]) -> Tensor:
        """Embed token ids [B, T] as [B, T, D], with the features of row i's images at its first image tokens.

        Args:
            input_ids: Prompts that were spread; image tokens after those are tokens like others.
            images: One tuple for each row.
        """
        embeddings: Tensor = self._model.get_input_embeddings()(input_ids)
        sizes = [sum(map(self.reader.tokens, row)) for row in images]
        is_image = input_ids == self.reader.token
        places = is_image & (is_image.cumsum(1) <= torch.tensor(sizes, device=is_image.device).unsqueeze(1))
        features = torch.cat([self._features(image) for row in images for image in row])
        return embeddings.masked_scatter(places.unsqueeze(-1), features.to(embeddings))

    @torch.no_grad()
    def _computed(self, image: bytes) -> Tensor:
        weights = self._model.get_input_embeddings().weight
        pixels = {
            name: value.to(weights.device, weights.dtype if value.is_floating_point() else None)
            for name, value in self.reader.pixels(image).items()
        }
        # LLaVA-NeXT returns the features of all tiles of the image, LLaVA a single tensor.
        features: Tensor = torch.cat(list(self._model.get_image_features(**pixels).pooler_output))
        # Too few features would be filled up from the next image, and too many would run into it.
        if len(features) != self.reader.tokens(image):
            raise BaseModelError(
                f"an image has {len(features)} features, the base's processor counts {self.reader.tokens(image)}",
                "mend patch_size, num_additional_image_tokens or vision_feature_select_strategy in the base's "
                "processor_config.json",
            )
        return features


def _decoded(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise InvalidRequest(
                    f"an image has {image.width} x {image.height} pixels, more than {_MAX_PIXELS}", "make it smaller"
                )
            if max(image.size) > _MAX_RATIO * min(image.size):
                raise InvalidRequest(
                    f"an image has {image.width} x {image.height} pixels",
                    f"one side may be {_MAX_RATIO} times the other",
                )
            if image.mode in _DEEP:
                raise InvalidRequest(f"an image has more than 8 bits a channel (mode {image.mode})", _REMEDY)
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise InvalidRequest(f"{len(data)} bytes are no image that can be read", _REMEDY) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidRequest(f"an image is damaged: {error}", _REMEDY) from error

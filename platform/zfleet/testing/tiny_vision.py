"""A tiny random vision-language model around a base, as an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

_SIDE, _PATCH = 28, 14
_TILES = [[_SIDE, 2 * _SIDE], [2 * _SIDE, _SIDE], [2 * _SIDE, 2 * _SIDE]]
_IMAGE = "<image>"
# Larger than usual, so that images change answers.
_SPREAD = 0.5


def save_tiny_vision(kind: Literal["llava", "llava_next"], tower: Path, folder: Path, seed: int = 0) -> Path:
    """Write a vision-language model whose language tower has the weights of an existing base.

    Its tokenizer has one token more, for images, and its embeddings one row more.

    Args:
        kind: Its ``model_type``.
        tower: Folder of the base.
        folder: Written here.
        seed: Other seeds give other vision towers.

    Returns:
        The folder.
    """
    with torch.random.fork_rng(devices=[]):  # the global generator stays as it was
        return _save(kind, tower, folder, seed)


def _save(kind: Literal["llava", "llava_next"], tower: Path, folder: Path, seed: int) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(tower)
    tokenizer.add_tokens([_IMAGE], special_tokens=True)
    language = AutoModelForCausalLM.from_pretrained(tower, dtype=torch.float32)
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    eyes = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=_SIDE,
        patch_size=_PATCH,
        initializer_range=_SPREAD,
    )
    settings: dict[str, Any] = {
        "vision_config": eyes,
        "text_config": language.config,
        "image_token_id": len(tokenizer) - 1,
    }
    square = {"height": _SIDE, "width": _SIDE}
    size = {"size": {"shortest_edge": _SIDE}, "crop_size": square}
    shape = {"patch_size": _PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    config: PreTrainedConfig
    processor: ProcessorMixin
    if kind == "llava":
        config = LlavaConfig(**settings)
        processor = LlavaProcessor(CLIPImageProcessorPil(**size), tokenizer, **shape)
    else:
        config = LlavaNextConfig(**settings, image_grid_pinpoints=_TILES)
        images = LlavaNextImageProcessorPil(**size, image_grid_pinpoints=_TILES)
        processor = LlavaNextProcessor(images, tokenizer, **shape)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    with torch.no_grad():
        model.lm_head.weight.copy_(language.lm_head.weight)
        # The logit of the image token is 0 everywhere: a text answer never needs it.
        model.lm_head.weight[-1] = 0
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.normal_(std=_SPREAD)
    model.generation_config = language.generation_config
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

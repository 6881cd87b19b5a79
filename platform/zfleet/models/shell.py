"""A base's modules, without memory for their weights."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from zfleet.errors import BaseModelError
from zfleet.models.families import sees
from zfleet.models.fingerprint import read_config


def shell(folder: Path) -> PreTrainedModel:
    """Build the modules of a base on the meta device: the whole model, if it takes images.

    Raises:
        BaseModelError: No model that transformers knows.
    """
    kind = AutoModelForImageTextToText if sees(read_config(folder)) else AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"base folder {folder} cannot be loaded: {error}", "give a Hugging Face causal LM folder"
        ) from error
    return model


def language_tower(model: PreTrainedModel) -> PreTrainedModel:
    """Extract the causal LM inside a vision-language model: it shares its modules, named as they would be alone."""
    with torch.device("meta"):
        tower = AutoModelForCausalLM.from_config(model.config.get_text_config())
    setattr(tower, tower.base_model_prefix, model.model.language_model)
    tower.set_output_embeddings(model.get_output_embeddings())
    tower.generation_config = model.generation_config
    tower.train(False)
    return cast(PreTrainedModel, tower)

"""What a base asks of an engine, read from its configuration and the headers of its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError, EngineError, SpecError

_GIB_OF_A_NUMBER = 4 / 2**30
_EYES = re.compile(r".*\b(vision_tower|multi_modal_projector)\..*")


@dataclass(frozen=True)
class BaseSizes:
    """Sizes in float32, in GiB.

    Attributes:
        weights: All weights.
        u: U of all factors: m r numbers for each matrix [m, n] of targets `all`, r = min(m, n).
        vh: Vh of all factors: r n numbers each.
    """

    weights: float
    u: float
    vh: float


@dataclass(frozen=True)
class BaseFacts:
    """What a base asks of an engine.

    Attributes:
        name: What people call it.
        sizes: Sizes of its weights and factors.
        window: How many of the last tokens it attends to; None if to all of its context.
        family_problem: Why no engine runs it.
        vllm_problem: Why vLLM does not run it anywhere.
        head_problem: Why vLLM does not run it on a CPU.
    """

    name: str
    sizes: BaseSizes
    window: int | None = None
    family_problem: BaseModelError | None = None
    vllm_problem: EngineError | None = None
    head_problem: EngineError | None = None


def read_base(source: str) -> BaseFacts:
    """Read what a base asks of an engine.

    Args:
        source: ``lab``, which is built if it is not cached, the name of a known base, a GGUF file, which is converted
            if it is not cached, or a Hugging Face folder.

    Raises:
        SpecError: The source is a hub id.
        BaseModelError: There is no such base, or it cannot be read, or a library that reads it is not installed.
    """
    try:
        from transformers import AutoConfig

        from zfleet.models.base import local_folder
        from zfleet.models.bundle import locate_base
        from zfleet.models.families import check_family, check_no_images, check_vllm_head_size
        from zfleet.models.fingerprint import read_config
    except ImportError as error:
        raise BaseModelError(
            f"base {source!r} cannot be read: {error}", "`zfleet doctor` without a base says what is missing"
        ) from error

    if source != "lab" and local_folder(source) is None:
        raise SpecError(f"base {source!r} is not on this machine", "give `lab`, a known base, a folder or a GGUF file")
    name, folder = locate_base(BaseSpec(model=source))
    sizes = _read_sizes(folder)
    written = read_config(folder)
    try:
        check_family(written, name)
    except BaseModelError as problem:
        return BaseFacts(name, sizes, family_problem=problem)
    try:
        config = AutoConfig.from_pretrained(folder).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"{folder}/config.json: {error}", "give a Hugging Face model folder") from error
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window >= config.max_position_embeddings:
        window = None
    try:
        check_no_images(written, name)
    except EngineError as problem:
        return BaseFacts(name, sizes, window, vllm_problem=problem)
    try:
        check_vllm_head_size(config, name)
    except EngineError as problem:
        return BaseFacts(name, sizes, window, head_problem=problem)
    return BaseFacts(name, sizes, window)


def _read_sizes(folder: Path) -> BaseSizes:
    from safetensors import SafetensorError, safe_open

    from zfleet.models.fingerprint import weight_files
    from zfleet.svf.layout import PRESETS

    weights = u = vh = 0
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as tensors:
                shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BaseModelError(f"{file} is truncated or damaged: {error}", "fetch the base again") from error
        weights += sum(map(prod, shapes.values()))
        for name, shape in shapes.items():
            chosen = re.fullmatch(PRESETS["all"], name.removesuffix(".weight")) and not _EYES.fullmatch(name)
            if len(shape) == 2 and chosen:
                u += shape[0] * min(shape)
                vh += shape[1] * min(shape)
    return BaseSizes(weights * _GIB_OF_A_NUMBER, u * _GIB_OF_A_NUMBER, vh * _GIB_OF_A_NUMBER)

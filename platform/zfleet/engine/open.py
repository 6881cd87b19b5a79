"""Opening the engine that a spec names. Other engines are not imported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from zfleet.config.specs import EngineSpec
from zfleet.engine.vllm_engine.version import check_vllm

if TYPE_CHECKING:
    from zfleet.engine.contract import Engine
    from zfleet.models.bundle import BaseBundle
    from zfleet.models.svf_model import SvfModel


def check_engine(spec: EngineSpec) -> None:
    """Refuse an engine that is not installed here, before anything is started for it.

    Raises:
        EngineError: The engine is not installed, or zfleet was not tested with this release of it.
    """
    if spec.kind == "vllm":
        check_vllm()


async def open_engine(bundle: BaseBundle, spec: EngineSpec) -> Engine:
    """Start an engine on a packed base. `auto` was resolved before (``engine.choose``).

    Raises:
        BaseModelError, FactorsError: The base or its factors cannot be opened.
        EngineError: The engine is not installed here, or cannot run this base.
    """
    assert spec.kind != "auto"
    if spec.kind == "vllm":
        from zfleet.engine.vllm_engine.engine import VllmEngine

        return await VllmEngine.open(bundle, spec)
    from zfleet.engine.torch_engine.engine import TorchEngine

    return TorchEngine(await asyncio.to_thread(_opened, bundle), spec)


def _opened(bundle: BaseBundle) -> SvfModel:
    from zfleet.openmp import end_helpers

    try:
        return bundle.open()
    finally:
        end_helpers()

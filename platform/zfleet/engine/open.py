"""Opening the engine that a spec names."""

from __future__ import annotations

import asyncio

from zfleet.config.specs import EngineSpec
from zfleet.engine.torch_engine import TorchEngine
from zfleet.engine.vllm_engine import VllmEngine
from zfleet.models.bundle import BaseBundle


async def open_engine(bundle: BaseBundle, spec: EngineSpec) -> TorchEngine | VllmEngine:
    """Start an engine on a base that was packed.

    Raises:
        BaseModelError, FactorsError: The base or its factors cannot be opened.
        EngineError: The engine is not installed here, or cannot run this base.
    """
    if spec.kind == "vllm":
        return await VllmEngine.open(bundle, spec)
    return TorchEngine(await asyncio.to_thread(bundle.open), spec)

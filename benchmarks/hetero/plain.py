"""vLLM without anything of zfleet's: the plain engine, and its own LoRA."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from hetero.adapters import MODULES, write_adapter
from hetero.client import Ask, Server
from hetero.processes import children
from hetero.settings import BATCH_TOKENS, CACHE_GIB, LORA_RANK, Settings
from zfleet.engine.vllm_engine.plan import ONE_PROCESS


class PlainVllm(Server):
    """vLLM's own asynchronous engine, with nothing of zfleet in it.

    Args:
        engine: The engine.
        adapters: LoRA adapters by number; none without LoRA.
        processes: Those that the engine started.
    """

    def __init__(self, engine: AsyncLLM, adapters: tuple[LoRARequest, ...], processes: tuple[int, ...]) -> None:
        self._engine: AsyncLLM | None = engine
        self._adapters = adapters
        self._ids = itertools.count()
        self.processes = processes

    async def answer(self, ask: Ask, tokens: int, stream: bool) -> AsyncIterator[int]:
        """Answer through vLLM; a finished answer comes as one chunk unless streamed."""
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        )
        adapter = None if ask.expert is None else self._adapters[ask.expert]
        prompt = tokens_input(list(ask.prompt))
        async for output in self._running.generate(prompt, sampling, str(next(self._ids)), lora_request=adapter):
            yield len(output.outputs[0].token_ids)

    async def call(self, function: Callable[[Any], Any]) -> Any:
        """Through vLLM's remote calls, which take functions where the environment allows it."""
        return (await self._running.collective_rpc(function))[0]

    async def close(self) -> None:
        """End the engine's processes."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.shutdown()

    async def load(self) -> None:
        """Load all adapters."""
        for adapter in self._adapters:
            await self._running.add_lora(adapter)

    @property
    def _running(self) -> AsyncLLM:
        if self._engine is None:
            raise RuntimeError("this engine was closed")
        return self._engine


async def open_plain(settings: Settings, *, eager: bool = True) -> PlainVllm:
    """vLLM without LoRA.

    Args:
        settings: Of the run.
        eager: Without torch.compile, as zfleet's engine runs on a CPU.
    """
    return _open(settings, (), enforce_eager=eager)


async def open_lora(settings: Settings, adapters: int) -> PlainVllm:
    """vLLM with room for all adapters at once, so that none is ever swapped; each is loaded before it returns."""
    requests = tuple(
        LoRARequest(f"lora-{number}", number + 1, str(write_adapter(settings, number, LORA_RANK)))
        for number in range(adapters)
    )
    side = _open(
        settings,
        requests,
        enforce_eager=True,
        enable_lora=True,
        max_lora_rank=LORA_RANK,
        max_loras=adapters,
        max_cpu_loras=adapters,
        # Without this it would make room for adapters of the embedding and the head, too, and gather for them.
        lora_target_modules=list(MODULES),
    )
    await side.load()
    return side


def _open(settings: Settings, adapters: tuple[LoRARequest, ...], **more: Any) -> PlainVllm:
    before = children()
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(settings.folder),
            dtype=settings.shape.dtype,
            max_model_len=settings.max_length,
            max_num_seqs=settings.load.concurrency,
            max_num_batched_tokens=BATCH_TOKENS,
            kv_cache_memory_bytes=int(CACHE_GIB * 2**30),
            enable_prefix_caching=True,
            # As zfleet's engine has it on a CPU, where vLLM's own choice is 128.
            block_size=32 if settings.shape.device == "cpu" else None,
            # As zfleet's engine has it on a CPU: a tenth faster here than with vLLM's own choice.
            distributed_executor_backend=ONE_PROCESS if settings.shape.device == "cpu" else None,
            disable_log_stats=True,
            **more,
        )
    )
    return PlainVllm(engine, adapters, tuple(sorted(children() - before)))

"""The processes of one vLLM engine: how they are started, spoken to, and started again after they died."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import AutoConfig

from zfleet.config.specs import EngineSpec
from zfleet.engine.vllm_version import check_vllm
from zfleet.errors import EngineError
from zfleet.models.bundle import BaseBundle
from zfleet.models.families import check_vllm_head_size

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

_EXTENSION = "zfleet.engine.vllm_worker.SvfExtension"
_GIB = 2**30
_POLL_SECONDS = 1.0
_STOP_SECONDS = 10.0
_BLOCK = 32
"""Tokens in a block of the prefix cache. vLLM's default on a CPU is 128: a shorter prefix would never be shared."""


@dataclass(frozen=True)
class CorePlan:
    """What a vLLM engine is started with.

    Attributes:
        folder: Holds the base and its factors for as long as the engine lives.
        model: Folder of the base.
        factors: Folder of its factors.
        base: Fingerprint of the base.
        targets: Which matrices have factors.
        device: ``cpu`` or ``cuda``.
        dtype: What it computes in.
        vocabulary: Entries of the base's embedding.
        max_length: The longest sequence, in tokens.
        spec: Its settings.
    """

    folder: tempfile.TemporaryDirectory[str]
    model: Path
    factors: Path
    base: str
    targets: str
    device: str
    dtype: str
    vocabulary: int
    max_length: int
    spec: EngineSpec

    @classmethod
    def unpack(cls, bundle: BaseBundle, spec: EngineSpec) -> CorePlan:
        """Write a base that was packed to where vLLM can read it.

        Raises:
            EngineError: vLLM is missing or untested, or does not run this base on this device.
        """
        check_vllm()
        folder = tempfile.TemporaryDirectory(prefix="zfleet-vllm-")
        model, factors = bundle.unpack(Path(folder.name))
        config = AutoConfig.from_pretrained(model)
        if bundle.spec.device == "cpu":
            check_vllm_head_size(config, bundle.name)
        length = min(spec.max_length or bundle.context, bundle.context)
        base, placed = bundle.fingerprint, bundle.spec
        return cls(
            folder, model, factors, base, placed.targets, placed.device, placed.dtype, config.vocab_size, length, spec
        )


@dataclass(eq=False)
class Run:
    """One request of vLLM's.

    Attributes:
        name: What vLLM calls it.
        added: vLLM knows it.
        aborted: It is to stop.
    """

    name: str
    added: bool = False
    aborted: bool = False


class EngineDied(Exception):
    """The processes are gone; ``VllmCore.revive`` starts them again."""


class VllmCore:
    """One ``AsyncLLM``. When its processes die, whoever notices calls ``revive``.

    Attributes:
        generation: Counts the starts: a failure belongs to the generation it happened in.
    """

    def __init__(self, plan: CorePlan) -> None:
        self.plan = plan
        self.generation = 0
        self._llm: AsyncLLM | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start the processes; takes 10 to 30 seconds.

        Raises:
            EngineError: vLLM is not installed, is another version than the tested ones, or does not start.
        """
        async with self._starting:
            await self._start()

    async def revive(self, generation: int, known: Mapping[str, Tensor]) -> None:
        """Start again what died, once for all that noticed, and give it the z-vectors it knew.

        Args:
            generation: The one that was found dead.
            known: {digest: z [R]}.

        Raises:
            EngineError: It does not start again.
        """
        async with self._starting:
            if generation != self.generation:
                return
            self._stop()
            await self._start()
            for digest, flat in known.items():
                await self.put(digest, flat)

    async def generate(
        self, prompt: tuple[int, ...], sampling: dict[str, Any], z: tuple[int, str], run: Run
    ) -> AsyncGenerator[RequestOutput, None]:
        """Run one request.

        Args:
            prompt: Token ids.
            sampling: Arguments of vLLM's ``SamplingParams``.
            z: Row of the table and digest.
            run: Names the request; it is aborted when ``run.aborted`` says so.

        Raises:
            EngineDied: The processes are gone.
        """
        from vllm import SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        llm = self._running
        params = SamplingParams(**sampling, extra_args={"zfleet": list(z)})
        # Keys and values depend on the z: a prefix is shared with requests of the same z alone.
        tokens = {"prompt_token_ids": list(prompt), "cache_salt": z[1]}
        try:
            outputs = await llm.add_request(run.name, tokens, params)
            finished = False
            try:
                run.added = True
                if run.aborted:
                    await llm.abort(run.name)
                while not finished:
                    output = outputs.get_nowait() or await outputs.get()
                    finished = output.finished
                    yield output
            finally:
                if not finished:
                    await llm.abort(run.name)
                outputs.close()
        except EngineDeadError:
            raise EngineDied from None

    async def abort(self, runs: Iterable[Run]) -> None:
        """Stop requests, also those that vLLM has not heard of yet."""
        runs = list(runs)
        for run in runs:
            run.aborted = True
        names = [run.name for run in runs if run.added]
        if self._llm is not None and names:
            await self._llm.abort(names)

    async def put(self, digest: str, flat: Tensor) -> None:
        """Send a z [R] float32 to every worker."""
        await self.call("zfleet_put", digest, flat.numpy().tobytes())

    async def drop(self, digest: str) -> None:
        """Have every worker forget a z."""
        await self.call("zfleet_drop", digest)

    async def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the worker extension on every worker; what the first gives back.

        Raises:
            EngineDied: The processes are gone.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        llm = self._running
        call = asyncio.ensure_future(llm.collective_rpc(method, args=arguments))
        try:
            # vLLM never answers a call whose engine dies over it.
            while not (await asyncio.wait([call], timeout=_POLL_SECONDS))[0]:
                if llm.errored:
                    raise EngineDied
            return call.result()[0]
        except EngineDeadError:
            raise EngineDied from None
        finally:
            call.cancel()

    def close(self) -> None:
        """End the processes. Idempotent."""
        self._stop()
        self.plan.folder.cleanup()

    @property
    def _running(self) -> AsyncLLM:
        if self._llm is None:
            raise EngineError("the engine is closed", "start an engine and send the request again")
        return self._llm

    def _stop(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown(timeout=_STOP_SECONDS)

    async def _start(self) -> None:
        # Not as the thread's result, which its pool would keep alive beyond the engine's end.
        await asyncio.to_thread(self._launch)
        self.generation += 1
        if not await self.call("zfleet_open"):
            raise EngineError("vLLM runs without z", f"targets {self.plan.targets!r} match none of its linears")

    def _launch(self) -> None:
        _set_environment(self.plan)
        # Importing vLLM takes seconds and sets up logging: only where it is used, after the environment is set.
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        import zfleet.engine.vllm_worker  # noqa: F401  (makes our linears known to vLLM by name)

        try:
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**_arguments(self.plan)))
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(
                f"vLLM does not start on base {self.plan.base[:12]}: {str(error).strip().splitlines()[0]}",
                "its own messages above say why; engine.vllm.cache_gib and engine.max_length decide what it needs",
            ) from error


def _arguments(plan: CorePlan) -> dict[str, Any]:
    spec = plan.spec
    tokens = max(spec.vllm.batch_tokens, spec.slots)
    settings: dict[str, Any] = {
        "model": str(plan.model),
        "tokenizer_mode": "hf",
        "dtype": plan.dtype,
        "max_model_len": plan.max_length,
        "max_num_seqs": spec.slots,
        "max_num_batched_tokens": tokens,
        "enable_chunked_prefill": True,
        "tensor_parallel_size": spec.vllm.tensor_parallel,
        "enable_prefix_caching": True,
        "quantization": "zfleet",
        "worker_extension_cls": _EXTENSION,
        "additional_config": {
            "zfleet": {
                "factors": str(plan.factors),
                "base": plan.base,
                "targets": plan.targets,
                "rows": spec.z_rows,
                "tokens": tokens,
                "form": spec.vllm.form,
                "rank": spec.vllm.rank,
            }
        },
        "disable_log_stats": True,
        "enable_log_requests": False,
    }
    if plan.device == "cpu":
        settings["enforce_eager"] = True
        settings["block_size"] = _BLOCK
        settings["kv_cache_memory_bytes"] = int(spec.vllm.cache_gib * _GIB)
    return settings


def _set_environment(plan: CorePlan) -> None:
    """What vLLM reads from the environment alone; what a person has set stays."""
    wanted = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if plan.device == "cpu":
        # Threads bound to cores would collide with those of other engines and of learners on the same machine.
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)

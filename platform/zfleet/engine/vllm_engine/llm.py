"""Starting vLLM's ``AsyncLLM`` and calling its workers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from zfleet.engine.vllm_engine.plan import VllmPlan
from zfleet.errors import EngineError

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_POLL_SECONDS = 1.0


class EngineDied(Exception):
    """The processes are gone; ``VllmCore.revive`` starts them again."""


def launch(plan: VllmPlan) -> AsyncLLM:
    """Start vLLM's processes. Blocks for 10 to 30 seconds.

    Raises:
        EngineError: vLLM does not start on this base.
    """
    plan.set_environment()
    # Imported late: vLLM takes seconds, sets up logging, and reads the environment that was just set.
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    import zfleet.engine.vllm_engine.worker  # noqa: F401  (registers our linears with vLLM)

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**plan.arguments()))
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineError(
            f"vLLM does not start on base {plan.base[:12]}: {reason}",
            "its own messages above say why; engine.vllm.cache_gib and engine.max_length decide what memory it needs",
        ) from error


async def call_workers(llm: AsyncLLM, method: str, *arguments: object) -> Any:
    """Call a method of the worker extension on every worker. Returns the first worker's result.

    Raises:
        EngineDied: The processes are gone.
        EngineError: The method failed.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    call = asyncio.ensure_future(llm.collective_rpc(method, args=arguments))
    try:
        # vLLM never answers a call during which its engine dies.
        while not (await asyncio.wait([call], timeout=_POLL_SECONDS))[0]:
            if llm.errored:
                raise EngineDied
        return call.result()[0]
    except EngineDeadError:
        raise EngineDied from None
    except EngineDied:
        raise
    except Exception as error:  # vLLM raises a worker's error as a bare Exception
        raise EngineError(f"vLLM's worker failed in {method}: {error}", "its own messages say why") from error
    finally:
        call.cancel()

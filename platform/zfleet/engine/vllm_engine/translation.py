"""Our requests in vLLM's terms, and vLLM's outputs in ours. vLLM is imported where it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from zfleet.engine.contract import Alternatives, Chunk, FinishReason, GenerationRequest

if TYPE_CHECKING:
    import vllm


def generation_arguments(request: GenerationRequest, index: int) -> dict[str, Any]:
    """Arguments of vLLM's ``SamplingParams`` for answer number ``index`` of a request."""
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
        "seed": _seed(sampling.seed, sampling.first + index),
        "logprobs": sampling.top_logprobs if sampling.logprobs else None,
        "ignore_eos": sampling.ignore_eos,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "logit_bias": dict(sampling.logit_bias) or None,
        "stop_token_ids": list(sampling.stop_token_ids),
        "output_kind": RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY,
    }


def chunk(
    request: GenerationRequest, index: int, output: vllm.CompletionOutput, prompt_tokens: int, z_digest: str
) -> Chunk:
    """Build a chunk of answer number ``index`` from what vLLM sent."""
    tokens = tuple(output.token_ids)
    steps = output.logprobs or ()
    logprobs = tuple(step[token].logprob for token, step in zip(tokens, steps, strict=False))
    count = request.sampling.top_logprobs
    others = tuple(likeliest(step, count) for step in steps) if count else ()
    reason = cast(FinishReason | None, output.finish_reason)
    return Chunk(index, output.text, tokens, logprobs, reason, prompt_tokens, z_digest, others)


def likeliest(step: Mapping[int, Any], count: int) -> Alternatives:
    """Return so many of the likeliest tokens of one place, of which vLLM reports one more if it was asked for."""
    # By vLLM's rank, the order of log-probabilities. The token that was asked for may have any rank.
    ordered = sorted(step.items(), key=lambda one: -one[1].logprob)
    return tuple((token, one.logprob) for token, one in ordered[:count])


def _seed(seed: int | None, index: int) -> int | None:
    """Derive a seed for answer number ``index`` that no answer of another seed shares: [0, 2**63)."""
    if seed is None:
        return None
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest(), "little") >> 1

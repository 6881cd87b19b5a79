"""Scores and hidden states as requests to vLLM: which ones, and how they are read.

Relies on vLLM's ``SamplingParams``: ``logprob_token_ids``, ``prompt_logprobs``, ``skip_reading_prefix_cache``; and on
``runner``, which marks the places of a prompt that vLLM took from its cache.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from zfleet.engine.contract import PromptScores
from zfleet.engine.prompts import Tokens
from zfleet.engine.streams import merged
from zfleet.engine.vllm_engine.plan import HIDDEN
from zfleet.engine.vllm_engine.translation import likeliest
from zfleet.errors import EngineError

if TYPE_CHECKING:
    import vllm

Send = Callable[[Tokens, dict[str, Any]], AsyncGenerator["vllm.RequestOutput", None]]
"""Sends token ids with arguments of vLLM's ``SamplingParams``, under one z."""

Logprobs = tuple[float, ...]
"""Of the tokens of one completion."""

_MOST_TOKENS = 128
"""vLLM's limit for ``logprob_token_ids``, ``vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS``."""


async def score_choices(send: Send, prompt: Tokens, completions: Sequence[Tokens]) -> tuple[Logprobs, ...]:
    """Compute the log-probability of each token of each completion.

    Of several completions, one request scores all first tokens and leaves the prompt in vLLM's prefix cache. Then each
    completion is a request of its own, at once, that computes again no more than the last block of the prompt.
    """
    if len(completions) == 1:
        return (await _score(send, prompt, completions[0], 0),)
    firsts = await _score_next(send, prompt, {completion[0] for completion in completions})
    scores: list[Logprobs] = [(firsts[completion[0]],) for completion in completions]
    rests = [_rest(send, prompt, completions, place) for place, one in enumerate(completions) if len(one) > 1]
    async with aclosing(merged(rests)) as found:
        async for place, rest in found:
            scores[place] += rest
    return tuple(scores)


async def score_prompt(send: Send, prompt: Tokens, top_logprobs: int) -> PromptScores:
    """Compute the log-probability of each token of a prompt but the first, and the alternatives of each."""
    if len(prompt) == 1:
        return PromptScores((), ())
    # vLLM does not say what a place that it took from its cache would predict.
    arguments = {"prompt_logprobs": top_logprobs, "skip_reading_prefix_cache": True}
    output = await _only(send(prompt, {**_one_token_arguments(), **arguments}))
    steps = output.prompt_logprobs[1:]
    found = [step[token].logprob for token, step in zip(prompt[1:], steps, strict=True)]
    others = tuple(likeliest(step, top_logprobs) for step in steps) if top_logprobs else ()
    return PromptScores(tuple(found), others)


Take = Callable[[str, Sequence[str]], Awaitable[tuple[float, ...] | None]]
"""As ``HiddenSums.take``, in the workers."""


class HiddenReader:
    """Has workers sum up the hidden states of prompts, and takes the means."""

    def __init__(self, take: Take, attempts: int) -> None:
        """Begin with no request.

        Args:
            take: Asks the workers.
            attempts: How often a prompt is computed if the workers die before its mean was taken.
        """
        self._take = take
        self._attempts = attempts
        self._abandoned: list[str] = []

    async def mean(self, send: Send, prompt: Tokens) -> tuple[float, ...]:
        """Compute the mean of a prompt's hidden states.

        Raises:
            EngineError: The workers died each time.
        """
        key = uuid4().hex
        # Tokens that vLLM took from its cache would have no hidden states.
        marked = {**_one_token_arguments(), "skip_reading_prefix_cache": True, "extra_args": {HIDDEN: key}}
        try:
            for _ in range(self._attempts):
                await _only(send(prompt, marked))
                abandoned = tuple(self._abandoned)
                mean = await self._take(key, abandoned)
                self._abandoned = [other for other in self._abandoned if other not in abandoned]
                if mean is not None:
                    return mean
            raise EngineError("vLLM's workers died before a hidden state was read", "send the request again")
        except BaseException:
            self._abandoned.append(key)
            raise


async def _only(outputs: AsyncGenerator[vllm.RequestOutput, None]) -> vllm.RequestOutput:
    """Return the output of a request that has one."""
    async with aclosing(outputs):
        return await anext(outputs)


def _one_token_arguments() -> dict[str, Any]:
    """Arguments of vLLM's ``SamplingParams`` for a request that is there for its prompt: it must sample one token."""
    from vllm.sampling_params import RequestOutputKind

    return {
        "temperature": 0.0,
        "max_tokens": 1,
        "detokenize": False,
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }


async def _score_next(send: Send, prompt: Tokens, tokens: Iterable[int]) -> dict[int, float]:
    """Compute the log-probability of each of these tokens behind the prompt."""
    asked = sorted(tokens)
    found: dict[int, float] = {}
    for first in range(0, len(asked), _MOST_TOKENS):
        some = asked[first : first + _MOST_TOKENS]
        output = await _only(send(prompt, {**_one_token_arguments(), "logprob_token_ids": some}))
        found |= {token: output.outputs[0].logprobs[0][token].logprob for token in some}
    return found


async def _rest(
    send: Send, prompt: Tokens, completions: Sequence[Tokens], place: int
) -> AsyncGenerator[tuple[int, Logprobs], None]:
    """Score the completion at this place behind its first token."""
    yield place, await _score(send, prompt, completions[place], 1)


async def _score(send: Send, prompt: Tokens, completion: Tokens, start: int) -> Logprobs:
    """Compute the log-probabilities of ``completion[start:]``.

    All but the last token are given as prompt. vLLM reports the last one as a token that it could sample, so that a
    completion may fill the context.
    """
    tokens, inner = (*prompt, *completion[:-1]), completion[start:-1]
    # vLLM does not say what a place that it took from its cache would predict: then compute all of them.
    for cached in (True, False):
        arguments = {**_one_token_arguments(), "logprob_token_ids": [completion[-1]]}
        if inner:
            arguments |= {"prompt_logprobs": 0, "skip_reading_prefix_cache": not cached}
        output = await _only(send(tokens, arguments))
        steps = output.prompt_logprobs[len(prompt) + start :] if inner else ()
        found = [step.get(token) for token, step in zip(inner, steps, strict=True)]
        if None not in found:
            last = output.outputs[0].logprobs[0][completion[-1]]
            return tuple(one.logprob for one in (*found, last))
    raise EngineError("vLLM did not score all tokens of a completion", "send the request again")

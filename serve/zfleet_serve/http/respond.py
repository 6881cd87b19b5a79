"""Responses of answers under way: a body, or a stream of server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from zfleet.engine.contract import Chunk, Completion
from zfleet.errors import ZfleetError
from zfleet_serve.adaptive.service import Answer
from zfleet_serve.http.errors import describe, describe_unexpected
from zfleet_serve.http.request_ids import request_log
from zfleet_serve.http.results import answered, usage
from zfleet_serve.http.wire import Dialect, Json

_LOG = request_log(__name__)


async def whole_body(answer: Answer, dialect: Dialect, model: str) -> Json:
    """Read an answer to its end, and build the body of a response that is not streamed."""
    dialect.take_scores(answer.prompts)
    chunks = [chunk async for chunk in answer.chunks]
    completions = [_completion(chunks, index) for index in range(dialect.choices)]
    return {
        **dialect.head(model, chunk=False),
        "choices": [dialect.whole(index, completion) for index, completion in enumerate(completions)],
        "usage": usage(dialect.prompt_tokens, sum(len(completion.token_ids) for completion in completions)),
        "zfleet": answered(answer),
    }


async def events(answer: Answer, dialect: Dialect, model: str, include_usage: bool) -> AsyncIterator[str]:
    """Yield server-sent events. The last chunk carries ``zfleet``. A stream that breaks ends in an error event."""
    try:
        async for chunk in _chunks(answer, dialect, model, include_usage):
            yield _event(chunk)
    except ZfleetError as error:
        yield _event(describe(error)[1])
    except Exception as error:
        # The status was sent long ago: without this event a client would take a broken answer for a whole one.
        _LOG.exception("a stream broke")
        yield _event(describe_unexpected(error))
    else:
        yield "data: [DONE]\n\n"


async def _chunks(answer: Answer, dialect: Dialect, model: str, include_usage: bool) -> AsyncIterator[Json]:
    dialect.take_scores(answer.prompts)
    head = dialect.head(model, chunk=True) | ({"usage": None} if include_usage else {})
    for index in range(dialect.choices):
        if (opening := dialect.opening(index)) is not None:
            yield head | {"choices": [opening]}
    left, completion_tokens = dialect.choices, 0
    async for chunk in answer.chunks:
        left -= chunk.finish_reason is not None
        completion_tokens += len(chunk.token_ids)
        last = {"zfleet": answered(answer)} if not left and not include_usage else {}
        # Text is held back while it may become a stop string: a chunk without any content is not sent.
        if chunk.text or chunk.logprobs or chunk.finish_reason:
            yield head | {"choices": [dialect.piece(chunk)]} | last
    if include_usage:
        yield head | {
            "choices": [],
            "usage": usage(dialect.prompt_tokens, completion_tokens),
            "zfleet": answered(answer),
        }


def _completion(chunks: list[Chunk], index: int) -> Completion:
    own = [chunk for chunk in chunks if chunk.index == index]
    reason = own[-1].finish_reason
    assert reason is not None, "the stream of an answer that raised nothing is complete"
    return Completion(
        text="".join(chunk.text for chunk in own),
        token_ids=tuple(token for chunk in own for token in chunk.token_ids),
        logprobs=tuple(logprob for chunk in own for logprob in chunk.logprobs),
        finish_reason=reason,
        z_digest=own[-1].z_digest,
        top_logprobs=tuple(others for chunk in own for others in chunk.top_logprobs),
    )


def _event(data: Json) -> str:
    # ASCII only: clients that split lines as Python does would end an event at U+2028. NaN is no JSON, and raises.
    return f"data: {json.dumps(data, ensure_ascii=True, allow_nan=False)}\n\n"

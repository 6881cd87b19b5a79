"""Answers in OpenAI's form: one dialect for chats, one for completions."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from zfleet.engine.contract import Chunk, FinishReason
from zfleet.engine.sync import Completion
from zfleet_serve.schemas import Answered, Dispatched, MixturePart, Usage
from zfleet_serve.service import Answer, Text

Json = dict[str, Any]


class Dialect(ABC):
    """How an endpoint writes its choices.

    Args:
        text: The base's tokenizer.
        logprobs: Whether log-probabilities were asked for.
    """

    whole_object: str
    chunk_object: str
    prefix: str

    def __init__(self, text: Text, logprobs: bool) -> None:
        self.text = text
        self.logprobs = logprobs

    def head(self, model: str, *, chunk: bool) -> Json:
        """What every body and every chunk of one response begins with."""
        return {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.chunk_object if chunk else self.whole_object,
            "created": int(time.time()),
            "model": model,
        }

    def opening(self, index: int) -> Json | None:
        """The choice of a stream's first chunk, where there is one before any text."""
        return None

    def whole(self, index: int, completion: Completion) -> Json:
        """A complete choice."""
        return self._choice(index, completion.text, completion.finish_reason) | self._logprobs_of(completion)

    def piece(self, chunk: Chunk) -> Json:
        """A choice of a stream."""
        return self._delta(chunk.index, chunk.text, chunk.finish_reason) | self._logprobs_of(chunk)

    def _logprobs_of(self, said: Completion | Chunk) -> Json:
        return {"logprobs": self._logprobs(said.token_ids, said.logprobs) if self.logprobs else None}

    @abstractmethod
    def _choice(self, index: int, text: str, reason: FinishReason) -> Json: ...

    @abstractmethod
    def _delta(self, index: int, text: str, reason: FinishReason | None) -> Json: ...

    @abstractmethod
    def _logprobs(self, tokens: Sequence[int], logprobs: Sequence[float]) -> Json: ...


class ChatDialect(Dialect):
    """``/v1/chat/completions``."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def opening(self, index: int) -> Json:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def _choice(self, index: int, text: str, reason: FinishReason) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "finish_reason": reason}

    def _delta(self, index: int, text: str, reason: FinishReason | None) -> Json:
        return {"index": index, "delta": {"content": text} if text else {}, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[int], logprobs: Sequence[float]) -> Json:
        content = []
        for token, logprob in zip(tokens, logprobs, strict=True):
            text = self.text.token(token)
            content.append({"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []})
        return {"content": content, "refusal": None}


class CompletionDialect(Dialect):
    """``/v1/completions``."""

    whole_object = "text_completion"
    chunk_object = "text_completion"
    prefix = "cmpl"

    def _choice(self, index: int, text: str, reason: FinishReason) -> Json:
        return {"index": index, "text": text, "finish_reason": reason}

    def _delta(self, index: int, text: str, reason: FinishReason | None) -> Json:
        return {"index": index, "text": text, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[int], logprobs: Sequence[float]) -> Json:
        return {
            "tokens": [self.text.token(token) for token in tokens],
            "token_logprobs": list(logprobs),
            "top_logprobs": None,
            "text_offset": None,
        }


def answered(answer: Answer) -> Json:
    """The ``zfleet`` object of an answer that has just ended."""
    route = answer.route
    decision = route.decision
    return Answered(
        model=route.model,
        mixture=[
            MixturePart(
                expert=part.expert,
                version=part.version,
                alpha=part.alpha if isinstance(part.alpha, int | float) else tuple(part.alpha),
            )
            for part in route.parts
        ],
        dispatch=decision and Dispatched(method=decision.method, label=decision.label, reason=decision.reason),
        z=route.request.z,
        first_pass_ms=route.first_pass_ms,
        second_pass_ms=answer.second_pass_ms,
    ).model_dump()


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """The ``usage`` object."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    ).model_dump()

"""Answers in OpenAI's form: one dialect for chats, one for completions."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from zfleet.engine.contract import Chunk, Completion, FinishReason
from zfleet_serve.adaptive.service import Answer, Text, Tokens
from zfleet_serve.http.schemas import Answered, Dispatched, MixturePart, Usage
from zfleet_serve.http.spoken import Speech, Spoken

Json = dict[str, Any]


class Dialect(ABC):
    """How an endpoint writes its choices.

    Args:
        text: The base's tokenizer.
        prompts: The prompts.
        n: How many choices each prompt has; those of the first prompt come first.
        logprobs: Whether the request asks for log-probabilities.
    """

    whole_object: str
    chunk_object: str
    prefix: str
    operation: str

    def __init__(self, text: Text, prompts: Sequence[Tokens], n: int, logprobs: bool) -> None:
        self.logprobs = logprobs
        self.choices = len(prompts) * n
        self.prompt_tokens = sum(map(len, prompts))
        asked = prompts if logprobs else ()
        self._speeches = [Speech(text.bytes_after(prompt)) for prompt in asked for _ in range(n)]

    def head(self, model: str, *, chunk: bool) -> Json:
        """Build the keys with which every body and every chunk of one response begins."""
        return {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.chunk_object if chunk else self.whole_object,
            "created": int(time.time()),
            "model": model,
        }

    def opening(self, index: int) -> Json | None:
        """Return the choice of a stream's first chunk, if it comes before any text."""
        return None

    def whole(self, index: int, completion: Completion) -> Json:
        """Build a complete choice."""
        return self._choice(index, completion.text, completion.finish_reason) | self._logprobs_of(index, completion)

    def piece(self, chunk: Chunk) -> Json:
        """Build a choice of a chunk of a stream."""
        return self._delta(chunk.index, chunk.text, chunk.finish_reason) | self._logprobs_of(chunk.index, chunk)

    def _logprobs_of(self, index: int, said: Completion | Chunk) -> Json:
        if not self.logprobs:
            return {"logprobs": None}
        return {"logprobs": self._logprobs(self._speeches[index].say(said.token_ids), said.logprobs)}

    @abstractmethod
    def _choice(self, index: int, text: str, reason: FinishReason) -> Json: ...

    @abstractmethod
    def _delta(self, index: int, text: str, reason: FinishReason | None) -> Json: ...

    @abstractmethod
    def _logprobs(self, tokens: Sequence[Spoken], logprobs: Sequence[float]) -> Json: ...


class ChatDialect(Dialect):
    """``/v1/chat/completions``."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"
    operation = "chat"

    def opening(self, index: int) -> Json:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def _choice(self, index: int, text: str, reason: FinishReason) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "finish_reason": reason}

    def _delta(self, index: int, text: str, reason: FinishReason | None) -> Json:
        return {"index": index, "delta": {"content": text} if text else {}, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Spoken], logprobs: Sequence[float]) -> Json:
        content = [
            {"token": token.text, "logprob": logprob, "bytes": list(token.content), "top_logprobs": []}
            for token, logprob in zip(tokens, logprobs, strict=True)
        ]
        return {"content": content, "refusal": None}


class CompletionDialect(Dialect):
    """``/v1/completions``."""

    whole_object = "text_completion"
    chunk_object = "text_completion"
    prefix = "cmpl"
    operation = "text_completion"

    def _choice(self, index: int, text: str, reason: FinishReason) -> Json:
        return {"index": index, "text": text, "finish_reason": reason}

    def _delta(self, index: int, text: str, reason: FinishReason | None) -> Json:
        return {"index": index, "text": text, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Spoken], logprobs: Sequence[float]) -> Json:
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": list(logprobs),
            "top_logprobs": None,
            # Counted from the beginning of the choice's own text.
            "text_offset": [token.offset for token in tokens],
        }


def answered(answer: Answer) -> Json:
    """Build the ``zfleet`` object of an answer that has just ended."""
    route = answer.route
    decision = route.decision
    return Answered(
        model=route.model,
        mixture=[
            MixturePart(
                expert=part.expert,
                version=part.version,
                alpha=dict(part.alpha) if isinstance(part.alpha, Mapping) else part.alpha,
            )
            for part in route.parts
        ],
        dispatch=None
        if decision is None
        else Dispatched(
            method=decision.method,
            label=decision.label,
            confidence=decision.confidence,
            probabilities=dict(decision.probabilities),
            reason=decision.reason,
            prompt_tokens=decision.prompt_tokens,
        ),
        z=route.z,
        first_pass_ms=route.first_pass_ms,
        second_pass_ms=answer.second_pass_ms,
    ).model_dump()


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Build the ``usage`` object."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    ).model_dump()

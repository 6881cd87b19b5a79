"""Answers in OpenAI's form: one dialect for chats, one for completions."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from zfleet.engine.contract import Chunk, Completion, FinishReason, PromptScores
from zfleet_serve.adaptive.service import Text, Tokens
from zfleet_serve.http.echo import Echo
from zfleet_serve.http.schemas import Prompt
from zfleet_serve.http.spoken import Speech, Spoken, written

Json = dict[str, Any]


class Dialect(ABC):
    """How an endpoint writes its choices.

    Args:
        text: The base's tokenizer.
        prompts: The prompts.
        n: How many choices each prompt has; those of the first prompt come first.
        alternatives: How many alternatives of each token the request asks for; None: no log-probabilities at all.
    """

    whole_object: str
    chunk_object: str
    prefix: str
    operation: str

    def __init__(self, text: Text, prompts: Sequence[Tokens], n: int, alternatives: int | None) -> None:
        self.alternatives = alternatives
        self.choices = len(prompts) * n
        self.prompt_tokens = sum(map(len, prompts))
        asked = () if alternatives is None else prompts
        self._speeches = [Speech(text.bytes_after(prompt)) for prompt in asked for _ in range(n)]

    def take_scores(self, scores: Sequence[PromptScores]) -> None:  # noqa: B027
        """Take the scores of the prompts' own tokens, before any choice is written. Chats have no use for them."""

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
        if self.alternatives is None:
            return {"logprobs": None}
        return {"logprobs": self._logprobs(self._spoken(index, said))}

    def _spoken(self, index: int, said: Completion | Chunk) -> list[Spoken]:
        return self._speeches[index].say(said.token_ids, said.logprobs, said.top_logprobs)

    @abstractmethod
    def _choice(self, index: int, text: str, reason: FinishReason) -> Json: ...

    @abstractmethod
    def _delta(self, index: int, text: str, reason: FinishReason | None) -> Json: ...

    @abstractmethod
    def _logprobs(self, tokens: Sequence[Spoken]) -> Json: ...


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

    def _logprobs(self, tokens: Sequence[Spoken]) -> Json:
        content = [
            _entry(token.content, token.logprob) | {"top_logprobs": [_entry(*other) for other in token.others]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


def _entry(content: bytes, logprob: float | None) -> Json:
    return {"token": written(content), "logprob": logprob, "bytes": list(content)}


class CompletionDialect(Dialect):
    """``/v1/completions``.

    Args:
        text, prompts, n, alternatives: As of ``Dialect``.
        echo: The prompts as they were sent, with which their choices begin; None if they do not.
    """

    whole_object = "text_completion"
    chunk_object = "text_completion"
    prefix = "cmpl"
    operation = "text_completion"

    def __init__(
        self,
        text: Text,
        prompts: Sequence[Tokens],
        n: int,
        alternatives: int | None,
        echo: Sequence[Prompt] | None = None,
    ) -> None:
        super().__init__(text, prompts, n, alternatives)
        self._echoes = [Echo(text, *prompt) for prompt in zip(echo or (), prompts, strict=False)]
        for index, speech in enumerate(self._speeches if self._echoes else ()):
            speech.follow(self._echoes[index // n].text)
        self._n = n

    def take_scores(self, scores: Sequence[PromptScores]) -> None:
        for echo, score in zip(self._echoes, scores, strict=False):
            echo.take_scores(score)

    def opening(self, index: int) -> Json | None:
        echo = self._echo(index)
        if echo is None:
            return None
        logprobs = None if self.alternatives is None else self._logprobs(echo.spoken)
        return self._delta(index, echo.text, None) | {"logprobs": logprobs}

    def whole(self, index: int, completion: Completion) -> Json:
        echo = self._echo(index)
        if echo is None:
            return super().whole(index, completion)
        choice = self._choice(index, echo.text + completion.text, completion.finish_reason)
        if self.alternatives is None:
            return choice | {"logprobs": None}
        return choice | {"logprobs": self._logprobs([*echo.spoken, *self._spoken(index, completion)])}

    def _echo(self, index: int) -> Echo | None:
        return self._echoes[index // self._n] if self._echoes else None

    def _choice(self, index: int, text: str, reason: FinishReason) -> Json:
        return {"index": index, "text": text, "finish_reason": reason}

    def _delta(self, index: int, text: str, reason: FinishReason | None) -> Json:
        return {"index": index, "text": text, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Spoken]) -> Json:
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_by_text(token) for token in tokens] if self.alternatives else None,
            # Counted from the beginning of the choice's own text.
            "text_offset": [token.offset for token in tokens],
        }


def _by_text(token: Spoken) -> dict[str, float] | None:
    """Write alternatives and the token itself by their texts; of those with one text, the likeliest."""
    if token.logprob is None:
        return None
    return {written(content): logprob for content, logprob in reversed([*token.others, (token.content, token.logprob)])}

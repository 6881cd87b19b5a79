"""One answer under way: its prompt, what was sampled so far, and where its chunks go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from zfleet.engine.contract import Chunk, FinishReason, GenerationRequest
from zfleet.engine.torch_engine.sampling import uniforms
from zfleet.engine.torch_engine.text import TextStream
from zfleet.engine.z_table import ZEntry

Sink = asyncio.Queue[Chunk | Exception]


@dataclass(eq=False)
class Answer:
    """Answer number ``index`` of a request.

    Attributes:
        request: What was asked.
        index: Which of the request's ``n`` answers.
        prompt: Token ids of the prompt.
        entry: The z it runs under.
        sink: Where its chunks go.
        draws: One number in [0, 1) for each token it may sample.
        text: Its decoder.
        eos: Tokens that end it.
        tokens: Sampled so far.
        logprobs: One per token when asked for.
    """

    request: GenerationRequest
    index: int
    prompt: tuple[int, ...]
    entry: ZEntry
    sink: Sink
    draws: NDArray[np.float64]
    text: TextStream
    eos: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: FinishReason | None = None
    _sent: int = 0
    _pending: str = ""

    @classmethod
    def begin(
        cls,
        request: GenerationRequest,
        index: int,
        prompt: tuple[int, ...],
        entry: ZEntry,
        sink: Sink,
        tokenizer: PreTrainedTokenizerBase,
        eos: frozenset[int],
    ) -> Answer:
        """An answer with nothing sampled yet."""
        sampling = request.sampling
        draws = uniforms(sampling.seed, index, sampling.max_tokens if sampling.temperature > 0 else 0)
        text = TextStream(tokenizer, prompt, sampling.stop)
        return cls(request, index, prompt, entry, sink, draws, text, frozenset() if sampling.ignore_eos else eos)

    @property
    def draw(self) -> float:
        """The random number for the next token; a greedy answer needs none."""
        return float(self.draws[len(self.tokens)]) if len(self.draws) else 0.0

    def push(self, token: int, logprob: float | None) -> Chunk | None:
        """Take one sampled token; the chunk to send for it, if any."""
        self.tokens.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        sampling = self.request.sampling
        watched = self.request.stream or bool(sampling.stop)
        new = self.text.push([token]) if watched and token not in self.eos else ""
        if token in self.eos or self.text.stopped:
            self.finished = "stop"
        elif len(self.tokens) >= sampling.max_tokens:
            self.finished = "length"
        if not watched:
            new = self.text.push([t for t in self.tokens if t not in self.eos]) if self.finished else ""
        if self.finished:
            new += self.text.flush()
            if self.text.stopped:
                self.finished = "stop"
        self._pending += new
        return self._chunk() if self.finished or (self.request.stream and self._pending) else None

    def _chunk(self) -> Chunk:
        start, self._sent = self._sent, len(self.tokens)
        text, self._pending = self._pending, ""
        return Chunk(
            self.index,
            text,
            tuple(self.tokens[start:]),
            tuple(self.logprobs[start:]),
            self.finished,
            len(self.prompt),
        )

"""The state of a sequence that is generated."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from zfleet.engine.contract import Alternatives, Chunk, FinishReason, GenerationRequest
from zfleet.engine.torch_engine.logprobs import TokenLogprobs
from zfleet.engine.torch_engine.prompt import Prompt
from zfleet.engine.torch_engine.sampling import uniforms
from zfleet.engine.torch_engine.text import TextStream
from zfleet.engine.z_table import ZEntry

Sink = asyncio.Queue[Chunk | Exception]


@dataclass(eq=False)
class SequenceState:
    """Answer number ``index`` of a request, and how far it has come.

    Attributes:
        slots: It takes one slot of the engine.
        request: The request.
        index: Which of the request's ``n`` answers.
        prompt: What its first pass reads.
        entry: The z that it runs under.
        sink: Its chunks go here, or the error that ends it.
        draws: One number in [0, 1) for each token that it may sample.
        text: Decodes its tokens.
        ends: Tokens that end it.
        tokens: Sampled so far.
        logprobs: One for each token if the request wants them.
        top_logprobs: Alternatives of each token if the request wants some.
        finished: Why it has ended; None while it runs.
    """

    slots: ClassVar[int] = 1

    request: GenerationRequest
    index: int
    prompt: Prompt
    entry: ZEntry
    sink: Sink
    draws: NDArray[np.float64]
    text: TextStream
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[Alternatives] = field(default_factory=list)
    finished: FinishReason | None = None
    _sent: int = 0
    _pending: str = ""

    @classmethod
    def begin(
        cls,
        request: GenerationRequest,
        index: int,
        prompt: Prompt,
        entry: ZEntry,
        sink: Sink,
        tokenizer: PreTrainedTokenizerBase,
        eos: frozenset[int],
    ) -> SequenceState:
        """Start with nothing sampled."""
        sampling = request.sampling
        count = sampling.max_tokens if sampling.temperature > 0 else 0
        draws = uniforms(sampling.seed, sampling.first + index, count)
        text = TextStream(tokenizer, prompt.tokens, sampling.stop)
        ends = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else eos)
        return cls(request, index, prompt, entry, sink, draws, text, ends)

    @property
    def length(self) -> int:
        """Tokens of its first pass."""
        return len(self.prompt)

    @property
    def draw(self) -> float:
        """The random number for the next token; 0 for a greedy answer, which needs none."""
        return float(self.draws[len(self.tokens)]) if len(self.draws) else 0.0

    def push(self, token: int, logprobs: TokenLogprobs | None) -> Chunk | None:
        """Take one sampled token; returns the chunk that is ready to be sent, if any."""
        self.tokens.append(token)
        if logprobs is not None:
            self.logprobs.append(logprobs.logprob)
            self.top_logprobs += [logprobs.alternatives] if logprobs.alternatives else []
        sampling = self.request.sampling
        # Text that nobody reads on the way is decoded once, at the end.
        decoding = self.request.stream or bool(sampling.stop)
        new = self.text.push([token]) if decoding and token not in self.ends else ""
        if token in self.ends or self.text.stopped:
            self.finished = "stop"
        elif len(self.tokens) >= sampling.max_tokens:
            self.finished = "length"
        if not decoding:
            new = self.text.push([t for t in self.tokens if t not in self.ends]) if self.finished else ""
        if self.finished:
            new += self.text.flush()
            if self.text.stopped:
                self.finished = "stop"
        self._pending += new
        return self._chunk() if self.finished or (self.request.stream and self._pending) else None

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        self.sink.put_nowait(error)

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
            self.entry.digest,
            tuple(self.top_logprobs[start:]),
        )

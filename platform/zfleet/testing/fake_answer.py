"""One answer of the fake engine: sampling, stops and chunks."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter

import numpy as np

from zfleet.engine.contract import Alternatives, Chunk, FinishReason, GenerationRequest
from zfleet.errors import ZfleetError
from zfleet.testing.fake_model import PLACES, likeliest


class FakeAnswer:
    """Answer number ``index`` of a request, from its first token to its last.

    Args:
        request: The request.
        prompt: Its token ids.
        index: Which of the ``n`` answers.
        pieces: Receives its chunks, or the error that ends it.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt: tuple[int, ...],
        index: int,
        pieces: asyncio.Queue[Chunk | ZfleetError],
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.index = index
        self.pieces = pieces
        self.row = 0
        self.tokens: list[int] = []
        self.finished = False
        self._text = ""
        self._logprobs: list[float] = []
        self._alternatives: list[Alternatives] = []
        self._sent_text = 0
        self._sent_tokens = 0
        self._random = np.random.default_rng(_seed(request.sampling.seed, request.sampling.first + index))

    def take(self, ids: np.ndarray, log_probs: np.ndarray, eos: int, z_digest: str) -> None:
        """Sample the next token and emit any chunk.

        Args:
            ids: Token ids [vocabulary].
            log_probs: Theirs, [vocabulary].
            eos: Which of them ends it.
            z_digest: Of the z in its row.
        """
        sampling = self.request.sampling
        if sampling.ignore_eos:
            log_probs = np.where(ids == eos, -np.inf, log_probs)
        place = self._sample(self._changed(log_probs))
        token = int(ids[place])
        self.tokens.append(token)
        self._logprobs.append(float(log_probs[place]))
        self._alternatives.append(likeliest(log_probs, sampling.top_logprobs))
        ends = {eos, *sampling.stop_token_ids}
        self._text += "" if token in ends else chr(token)
        reason: FinishReason | None = None
        cut = min((at for stop in sampling.stop if (at := self._text.find(stop)) >= 0), default=None)
        if cut is not None:
            self._text, reason = self._text[:cut], "stop"
        elif token in ends:
            reason = "stop"
        elif len(self.tokens) == sampling.max_tokens:
            reason = "length"
        self.finished = reason is not None
        if self.request.stream or self.finished:
            self._emit(reason, z_digest)

    def _changed(self, logits: np.ndarray) -> np.ndarray:
        """Apply bias and penalties, as ``SamplingParams`` defines them."""
        sampling, logits = self.request.sampling, logits.copy()
        for token, bias in sampling.logit_bias:
            logits[PLACES[token]] += bias
        counts = Counter(self.tokens)
        for token in counts.keys() | set(self.prompt) & PLACES.keys():
            place = PLACES[token]
            penalty = sampling.repetition_penalty
            logits[place] *= 1 / penalty if logits[place] > 0 else penalty
            logits[place] -= sampling.frequency_penalty * counts[token] + sampling.presence_penalty * (token in counts)
        return logits

    def _sample(self, log_probs: np.ndarray) -> int:
        sampling = self.request.sampling
        if sampling.temperature == 0:
            return int(log_probs.argmax())
        scaled = log_probs / sampling.temperature
        probs = np.exp(scaled - scaled.max())
        probs /= probs.sum()
        probs[probs < sampling.min_p * probs.max()] = 0
        order = np.argsort(-probs, kind="stable")
        probs[order[sampling.top_k or len(order) :]] = 0
        probs /= probs.sum()
        before = np.cumsum(probs[order]) - probs[order]
        kept = order[(before < sampling.top_p) & (probs[order] > 0)]
        return int(self._random.choice(kept, p=probs[kept] / probs[kept].sum()))

    def _emit(self, reason: FinishReason | None, z_digest: str) -> None:
        ready = len(self._text) if reason else len(self._text) - self._held_back()
        self.pieces.put_nowait(
            Chunk(
                index=self.index,
                text=self._text[self._sent_text : ready],
                token_ids=tuple(self.tokens[self._sent_tokens :]),
                logprobs=tuple(self._logprobs[self._sent_tokens :]) if self.request.sampling.logprobs else (),
                finish_reason=reason,
                prompt_tokens=len(self.prompt),
                z_digest=z_digest,
                top_logprobs=tuple(self._alternatives[self._sent_tokens :])
                if self.request.sampling.top_logprobs
                else (),
            )
        )
        self._sent_text, self._sent_tokens = ready, len(self.tokens)

    def _held_back(self) -> int:
        """Count the last characters that may begin a stop string."""
        starts = (stop[:length] for stop in self.request.sampling.stop for length in range(1, len(stop)))
        return max((len(start) for start in starts if self._text.endswith(start)), default=0)


def _seed(seed: int | None, index: int) -> int | None:
    if seed is None:
        return None
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:8], "little")

"""Forward passes of the embedded engine: prompts, one token for everybody, and scoring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zfleet.engine.contract import Chunk
from zfleet.engine.prompts import Tokens
from zfleet.engine.torch_engine.answer import Answer
from zfleet.engine.torch_engine.sampling import sample
from zfleet.engine.torch_engine.slot_cache import SlotCache
from zfleet.engine.z_table import TensorZTable, ZEntry
from zfleet.errors import BaseModelError, EngineError
from zfleet.models.base import Base
from zfleet.models.images import Images
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_logits


class TorchBatch:
    """The model, its cache and the z table, as the engine's worker thread uses them.

    Answers lie in slots 0 .. running-1, in the order of the engine's list.
    """

    def __init__(self, model: SvfModel, table: TensorZTable) -> None:
        self._model = model
        self._table = table
        self._cache = SlotCache()
        self._gathered: tuple[tuple[object, ...], Tensor] | None = None

    @torch.no_grad()
    def prefill(self, first: int, answers: list[Answer]) -> list[tuple[Answer, Chunk]]:
        """Run the prompts of new answers into slots from ``first`` on, and sample their first tokens."""
        prompts = [answer.prompt for answer in answers]
        longest = max(map(len, prompts))
        device = self._model.device
        ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
        self._cache.prefill(first, *ids.shape)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        # Logits only where some prompt ends: with a large vocabulary those of all positions would fill memory.
        ends, where = last.unique(return_inverse=True)
        rows = self._rows([answer.entry for answer in answers])
        logits = self._model.causal_logits(
            ids,
            rows,
            images=[answer.request.images for answer in answers],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=ends,
        )
        return self._sample(answers, logits[torch.arange(len(answers), device=device), where])

    @torch.no_grad()
    def decode(self, answers: list[Answer]) -> list[tuple[Answer, Chunk]]:
        """Add one token to each running answer."""
        device = self._model.device
        ids = torch.tensor([[answer.tokens[-1]] for answer in answers], device=device)
        positions = torch.tensor([len(a.prompt) + len(a.tokens) - 1 for a in answers], device=device)
        self._cache.decode(positions)
        seen = torch.arange(int(positions.max()) + 1, device=device) <= positions.unsqueeze(1)
        logits = self._model.logits(
            ids,
            self._rows([answer.entry for answer in answers]),
            attention_mask=seen[:, None, None, :],
            position_ids=positions.unsqueeze(1),
            past_key_values=self._cache,
            use_cache=True,
        )
        return self._sample(answers, logits[:, -1])

    @torch.no_grad()
    def score(self, sequences: Sequence[tuple[Tokens, Tokens, Images, ZEntry]]) -> list[tuple[float, ...]]:
        """Log-probability of each completion token: prompts and completions in one pass."""
        prompts, completions, images, entries = zip(*sequences, strict=True)
        scored = completion_logits(self._model, prompts, completions, self._rows(list(entries)), images)
        return [tuple(row[kept].tolist()) for row, kept in zip(scored.logprobs(), scored.mask, strict=True)]

    def compact(self, answers: list[Answer]) -> list[Answer]:
        """The answers that go on, in slots without gaps: the last ones move into the holes."""
        running = list(answers)
        for slot in range(len(running) - 1, -1, -1):
            if running[slot].finished:
                last = running.pop()
                if slot < len(running):
                    self._cache.move(len(running), slot)
                    running[slot] = last
        return running

    def _rows(self, entries: list[ZEntry]) -> Tensor | None:
        """z [B, R] of a batch; None when every row is the base, so that the dense weights serve."""
        rows = [entry.row for entry in entries]
        if not any(rows):
            return None
        key = (self._table.version, *rows)
        if self._gathered is None or self._gathered[0] != key:
            self._gathered = key, self._table.table[torch.tensor(rows, device=self._table.table.device)]
        return self._gathered[1]

    def _sample(self, answers: list[Answer], logits: Tensor) -> list[tuple[Answer, Chunk]]:
        device = logits.device
        parameters = [answer.request.sampling for answer in answers]
        tokens = sample(
            logits,
            torch.tensor([p.temperature for p in parameters], device=device),
            torch.tensor([p.top_p for p in parameters], device=device),
            torch.tensor([answer.draw for answer in answers], dtype=torch.float64, device=device),
        )
        logprobs: list[float | None] = [None] * len(answers)
        if any(p.logprobs for p in parameters):
            chosen = torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            logprobs = [value if p.logprobs else None for value, p in zip(chosen.tolist(), parameters, strict=True)]
        chunks = []
        for answer, token, logprob in zip(answers, tokens.tolist(), logprobs, strict=True):
            chunk = answer.push(token, logprob)
            if chunk is not None:
                chunks.append((answer, chunk))
        return chunks


_STRETCHING = ("dynamic", "longrope")
"""Rotary embeddings that turn every row of a batch otherwise when its longest row passes the original length."""


def check_whole(model: SvfModel) -> None:
    """Refuse a model that is split over processes: each has other requests, and would wait for the others' passes.

    Raises:
        EngineError: Names the base.
    """
    if model.sharding is not None:
        raise EngineError(
            f"base {model.base.name} is split over the processes that train, which cannot generate on it",
            "generate elsewhere: `engine: vllm`, whose engine.vllm.tensor_parallel splits the base over devices",
        )


def check_length(base: Base, length: int) -> None:
    """Refuse a base that answers sequences this long otherwise than the batch does.

    Raises:
        BaseModelError: Names the base's limit and the length.
    """
    config = base.model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < length:
        raise BaseModelError(
            f"base {base.name} attends to the last {window} tokens only, the engine would run {length}",
            f"set engine.max_length to at most {window}",
        )
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    if rope.get("rope_type") in _STRETCHING and original < length:
        raise BaseModelError(
            f"base {base.name} stretches its positions ({rope['rope_type']}) beyond {original} tokens, the engine "
            f"would run {length}: a long request would change the answers of all others in its batch",
            f"set engine.max_length to at most {original}",
        )

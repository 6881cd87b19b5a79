"""Forward passes of the embedded engine: prompts, one token for everybody, and scoring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zfleet.engine.answer import Answer
from zfleet.engine.contract import Chunk
from zfleet.engine.sampling import sample
from zfleet.engine.slot_cache import SlotCache
from zfleet.engine.z_table import ZEntry, ZTable
from zfleet.errors import BaseModelError
from zfleet.models.base import Base
from zfleet.models.svf_model import SvfModel


class TorchBatch:
    """The model, its cache and the z table, as the engine's worker thread uses them.

    Answers lie in slots 0 .. running-1, in the order of the engine's list.
    """

    def __init__(self, model: SvfModel, table: ZTable) -> None:
        self._model = model
        self._table = table
        self._cache = SlotCache()
        self._gathered: tuple[tuple[object, ...], Tensor] | None = None

    @torch.no_grad()
    def prefill(self, first: int, answers: list[Answer]) -> list[tuple[Answer, Chunk]]:
        """Run the prompts of new answers into slots from ``first`` on, and sample their first tokens."""
        prompts = [answer.prompt for answer in answers]
        ids = self._padded(prompts)
        self._cache.prefill(first, *ids.shape)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=ids.device)
        # Logits only where some prompt ends: with a large vocabulary those of all positions would fill memory.
        ends, where = last.unique(return_inverse=True)
        logits = self._forward(ids, self._rows([a.entry for a in answers]), past_key_values=self._cache, keep=ends)
        return self._sample(answers, logits[torch.arange(len(answers), device=ids.device), where])

    @torch.no_grad()
    def decode(self, answers: list[Answer]) -> list[tuple[Answer, Chunk]]:
        """Add one token to each running answer."""
        device = self._model.device
        ids = torch.tensor([[answer.tokens[-1]] for answer in answers], device=device)
        positions = torch.tensor([len(a.prompt) + len(a.tokens) - 1 for a in answers], device=device)
        self._cache.decode(positions)
        seen = torch.arange(int(positions.max()) + 1, device=device) <= positions.unsqueeze(1)
        with self._model.rows(self._rows([answer.entry for answer in answers])):
            out = self._model.base.model(
                input_ids=ids,
                attention_mask=seen[:, None, None, :],
                position_ids=positions.unsqueeze(1),
                past_key_values=self._cache,
                use_cache=True,
            )
        return self._sample(answers, out.logits[:, -1].float())

    @torch.no_grad()
    def score(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...], ZEntry]]) -> list[tuple[float, ...]]:
        """Log-probability of each completion token: prompts and completions in one pass."""
        ids = self._padded([(*prompt, *completion) for prompt, completion, _ in sequences])
        first = min(len(prompt) for prompt, _, _ in sequences) - 1
        keep = torch.arange(first, ids.shape[1] - 1, device=ids.device)
        logits = self._forward(ids, self._rows([entry for _, _, entry in sequences]), past_key_values=None, keep=keep)
        logprobs = torch.log_softmax(logits, -1).gather(-1, ids[:, first + 1 :, None]).squeeze(-1).tolist()
        return [
            tuple(row[len(prompt) - 1 - first : len(prompt) - 1 - first + len(completion)])
            for row, (prompt, completion, _) in zip(logprobs, sequences, strict=True)
        ]

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

    def _forward(self, ids: Tensor, rows: Tensor | None, *, past_key_values: SlotCache | None, keep: Tensor) -> Tensor:
        """Logits [B, kept, vocabulary] float32 of right-padded prompts: no token sees the padding behind it."""
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        return self._model.logits(
            ids,
            rows,
            attention_mask=causal[None, None],
            position_ids=torch.arange(length, device=ids.device).unsqueeze(0),
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            logits_to_keep=keep,
        )

    def _padded(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, sequences))
        return torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in sequences], device=self._model.device)

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


def check_full_attention(base: Base, length: int) -> None:
    """Refuse a base whose attention window is shorter than the sequences it would run.

    Raises:
        BaseModelError: Names the window and the length.
    """
    config = base.model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < length:
        raise BaseModelError(
            f"base {base.name} attends to the last {window} tokens only, the engine would run {length}",
            f"set engine.max_length to at most {window}",
        )

"""Forward passes of the embedded engine: prompts, one token for each running sequence, and scoring."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zfleet.engine.contract import Chunk
from zfleet.engine.torch_engine.sampling import sample
from zfleet.engine.torch_engine.sequence import Scoring, SequenceState
from zfleet.engine.torch_engine.slot_cache import SlotCache
from zfleet.engine.z_table import TensorZTable, ZEntry
from zfleet.errors import BaseModelError, EngineError
from zfleet.models.base import Base
from zfleet.models.completions import Row, lay_out
from zfleet.models.families import sliding_window
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_logprobs

_PASS_TOKENS = 8192
"""The most tokens in one pass over prompts, padding included."""


class TorchBatch:
    """The model, its cache and the z table, as the engine's worker thread uses them.

    Sequences lie in slots 0 .. running-1, in the order of the engine's list.
    """

    def __init__(self, model: SvfModel, table: TensorZTable) -> None:
        self._model = model
        self._table = table
        self._cache = SlotCache()
        self._gathered: tuple[tuple[object, ...], Tensor] | None = None

    @torch.no_grad()
    def prefill(self, first: int, sequences: list[SequenceState]) -> list[tuple[SequenceState, Chunk]]:
        """Run the prompts of new sequences into slots from ``first`` on, and sample their first tokens."""
        prompts = [sequence.prompt for sequence in sequences]
        longest = max(map(len, prompts))
        device = self._model.device
        ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
        self._cache.prefill(first, *ids.shape)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        # Logits only where a prompt ends: with a large vocabulary, logits of all positions would fill memory.
        ends, where = last.unique(return_inverse=True)
        rows = self._rows([sequence.entry for sequence in sequences])
        logits = self._model.causal_logits(
            ids,
            rows,
            images=[sequence.request.images for sequence in sequences],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=ends,
        )
        return self._sample(sequences, logits[torch.arange(len(sequences), device=device), where])

    @torch.no_grad()
    def decode(self, sequences: list[SequenceState]) -> list[tuple[SequenceState, Chunk]]:
        """Add one token to each running sequence."""
        device = self._model.device
        ids = torch.tensor([[sequence.tokens[-1]] for sequence in sequences], device=device)
        positions = torch.tensor([len(s.prompt) + len(s.tokens) - 1 for s in sequences], device=device)
        self._cache.decode(positions)
        seen = torch.arange(int(positions.max()) + 1, device=device) <= positions.unsqueeze(1)
        logits = self._model.logits(
            ids,
            self._rows([sequence.entry for sequence in sequences]),
            attention_mask=seen[:, None, None, :],
            position_ids=positions.unsqueeze(1),
            past_key_values=self._cache,
            use_cache=True,
        )
        return self._sample(sequences, logits[:, -1])

    @torch.no_grad()
    def score(self, scorings: Sequence[Scoring]) -> list[tuple[float, ...]]:
        """Compute the log-probability of each completion token: prompts and completions in one pass."""
        rows = [Row(scoring.prompt, (scoring.completion,), scoring.images) for scoring in scorings]
        batch = lay_out(rows, self._model)
        scored = completion_logprobs(self._model, batch, self._rows([scoring.entry for scoring in scorings]))
        return [tuple(values.tolist()) for values in batch.of_each(scored)]

    def compact(self, sequences: list[SequenceState]) -> list[SequenceState]:
        """Return the sequences that go on, in slots without gaps: the last ones move into the holes."""
        running = list(sequences)
        for slot in range(len(running) - 1, -1, -1):
            if running[slot].finished:
                last = running.pop()
                if slot < len(running):
                    self._cache.move(len(running), slot)
                    running[slot] = last
        return running

    def _rows(self, entries: list[ZEntry]) -> Tensor | None:
        """Gather z [B, R] of a batch; None if every row is the base, so that the dense weights serve."""
        rows = [entry.row for entry in entries]
        if not any(rows):
            return None
        key = (self._table.version, *rows)
        if self._gathered is None or self._gathered[0] != key:
            self._gathered = key, self._table.table[torch.tensor(rows, device=self._table.table.device)]
        return self._gathered[1]

    def _sample(self, sequences: list[SequenceState], logits: Tensor) -> list[tuple[SequenceState, Chunk]]:
        device = logits.device
        parameters = [sequence.request.sampling for sequence in sequences]
        tokens = sample(
            logits,
            torch.tensor([p.temperature for p in parameters], device=device),
            torch.tensor([p.top_p for p in parameters], device=device),
            torch.tensor([sequence.draw for sequence in sequences], dtype=torch.float64, device=device),
        )
        logprobs: list[float | None] = [None] * len(sequences)
        if any(p.logprobs for p in parameters):
            chosen = torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
            logprobs = [value if p.logprobs else None for value, p in zip(chosen.tolist(), parameters, strict=True)]
        chunks = []
        for sequence, token, logprob in zip(sequences, tokens.tolist(), logprobs, strict=True):
            chunk = sequence.push(token, logprob)
            if chunk is not None:
                chunks.append((sequence, chunk))
        return chunks


class PassBudget:
    """Bounds a pass over prompts, in which every row is padded to the longest."""

    def __init__(self) -> None:
        self._longest = self._rows = 0

    def takes(self, length: int) -> bool:
        """Count one more row of this length in if it fits; a first row always does."""
        self._longest = max(self._longest, length)
        fits = not self._rows or self._longest * (self._rows + 1) <= _PASS_TOKENS
        self._rows += fits
        return fits


_STRETCHING = ("dynamic", "longrope")
"""Rotary embeddings that change for every row of a batch when its longest row passes the original length."""


def check_whole(model: SvfModel) -> None:
    """Refuse a model that is split over processes: each process has other requests and would wait for the others.

    Raises:
        EngineError: Names the base.
    """
    if model.sharding is not None:
        raise EngineError(
            f"base {model.base.name} is split over the processes that train, which cannot generate on it",
            "generate elsewhere: `engine: vllm`, whose engine.vllm.tensor_parallel splits the base over devices",
        )


def check_length(base: Base, length: int) -> None:
    """Refuse a base that treats sequences of this length in a way that the batch does not.

    Raises:
        BaseModelError: Names the base's limit and the length.
    """
    config = base.model.config
    window = sliding_window(config)
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

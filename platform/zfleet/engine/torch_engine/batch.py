"""Forward passes of the embedded engine: prompts, one token for each running sequence, and work of a single pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zfleet.engine.contract import Chunk
from zfleet.engine.torch_engine.bound_rows import BoundRows
from zfleet.engine.torch_engine.logprobs import token_logprobs
from zfleet.engine.torch_engine.penalties import changed
from zfleet.engine.torch_engine.prompt import Prompt, PromptPass
from zfleet.engine.torch_engine.prompt_scores import prompt_scores
from zfleet.engine.torch_engine.sampling import Truncation, sample
from zfleet.engine.torch_engine.schedule import PASS_TOKENS, Step
from zfleet.engine.torch_engine.sequence import SequenceState
from zfleet.engine.torch_engine.single_pass import Logprobs, Pooling, PromptScoring, Scoring, SinglePass
from zfleet.engine.torch_engine.slot_cache import SlotCache
from zfleet.engine.z_table import TensorZTable, ZEntry
from zfleet.heap import trim_heap
from zfleet.models.completions import Row, lay_out, micro_batches, rows_of_prompt
from zfleet.models.pooling import mean_hidden
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_logprobs
from zfleet.openmp import end_helpers

Sampled = list[tuple[SequenceState, Chunk]]
"""The chunks that are ready to be sent."""

Results = dict[SinglePass[Any], Any]
"""What was computed of each work of a single pass."""

_KEPT_BYTES = 64 * 2**20
"""Of the cache of an engine that has nothing to do: growing again to so much takes no time worth mentioning."""


class TorchBatch:
    """The model, its cache and the z table, as the engine's worker thread uses them.

    Sequences lie in slots 0 .. running-1, in the order of the engine's list.
    """

    def __init__(self, model: SvfModel, table: TensorZTable, slots: int) -> None:
        """Start without a cache.

        Args:
            model: The base in SVF form.
            table: Where the z of all sequences are.
            slots: The most sequences at once.
        """
        self._model = model
        self._table = table
        self._cache = SlotCache(slots)
        self._bound = BoundRows(table)

    @torch.no_grad()
    def run(self, step: Step) -> tuple[Sampled, Results]:
        """Compute a step. Returns chunks, and the results of work of a single pass."""
        slots = len(step.running)
        if step.copies:
            new = step.running[-len(step.copies) :]
            self._cache.copy(step.copies, slots - len(new), max(sequence.length for sequence in new))
        chunks: Sampled = []
        if step.prompts:
            chunks += self.prefill(slots, step.prompts)
            slots += sum(len(prompt.answers) for prompt in step.prompts)
        for prompt, tokens in step.pieces:
            chunks += self.extend(slots, prompt, tokens)
            slots += len(prompt.answers) if tokens == prompt.left else 0
        if step.running:
            chunks += self.decode(step.running)
        results: Results = {}
        if scorings := [work for work in step.single if isinstance(work, Scoring)]:
            results |= zip(scorings, self.score(scorings), strict=True)
        if poolings := [work for work in step.single if isinstance(work, Pooling)]:
            results |= zip(poolings, self.pool(poolings), strict=True)
        if readings := [work for work in step.single if isinstance(work, PromptScoring)]:
            results |= zip(readings, prompt_scores(self._model, readings, self._rows), strict=True)
        return chunks, results

    def prefill(self, first: int, prompts: Sequence[PromptPass]) -> Sampled:
        """Run prompts, each once, into the slots of their answers from ``first`` on. Samples first tokens."""
        device = self._model.device
        tokens = [work.prompt.tokens for work in prompts]
        longest = max(map(len, tokens))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in tokens], device=device)
        answers = [answer for work in prompts for answer in work.answers]
        which = None
        if len(answers) > len(prompts):
            counts = torch.tensor([len(work.answers) for work in prompts], device=device)
            which = torch.arange(len(prompts), device=device).repeat_interleave(counts)
        self._cache.prefill(first, len(answers), longest, which)
        logits = self._model.logits_at(
            self._model.inputs(ids, [work.prompt.images for work in prompts]),
            self._rows([work.answers[0].entry for work in prompts]),
            torch.tensor([len(row) - 1 for row in tokens], device=device),
            position_ids=torch.arange(longest, device=device).unsqueeze(0),
            past_key_values=self._cache,
        )
        return self._sample(answers, logits if which is None else logits[which])

    def extend(self, first: int, work: PromptPass, tokens: int) -> Sampled:
        """Run the next ``tokens`` tokens of a prompt. If it is complete then, do as ``prefill``."""
        device = self._model.device
        # Not by `or`: transformers counts a cache's layers of its own, of which this one has none.
        cache = work.cache = SlotCache(1) if work.cache is None else work.cache
        start, end = work.done, work.done + tokens
        cache.extend(start, tokens)
        whole = self._model.inputs(torch.tensor([work.prompt.tokens], device=device), [work.prompt.images])
        positions = torch.arange(start, end, device=device)
        seen = torch.arange(end, device=device) <= positions.unsqueeze(1)
        logits = self._model.logits_at(
            {name: values[:, start:end] for name, values in whole.items()},
            self._rows([work.answers[0].entry]),
            torch.tensor([tokens - 1], device=device),
            attention_mask=seen[None, None] if start else None,
            position_ids=positions.unsqueeze(0),
            past_key_values=cache,
        )
        if tokens < work.left:
            return []
        self._cache.take(cache, first, len(work.answers))
        work.cache = None
        return self._sample(work.answers, logits.expand(len(work.answers), -1))

    def decode(self, sequences: Sequence[SequenceState]) -> Sampled:
        """Add one token to each running sequence. One that has none yet continues behind its prompt's last token."""
        device = self._model.device
        ids = torch.tensor([[(s.tokens or s.prompt.tokens)[-1]] for s in sequences], device=device)
        positions = torch.tensor([s.length + len(s.tokens) - 1 for s in sequences], device=device)
        self._cache.decode(positions)
        unseen = torch.arange(int(positions.max()) + 1, device=device) > positions.unsqueeze(1)
        # In numbers that are added: of booleans, attention would make these in every layer.
        mask = torch.zeros(unseen.shape, dtype=self._model.base.model.dtype, device=device)
        logits = self._model.logits(
            ids,
            self._bound.of([sequence.entry for sequence in sequences]),
            attention_mask=mask.masked_fill_(unseen, -torch.inf)[:, None, None, :],
            position_ids=positions.unsqueeze(1),
            past_key_values=self._cache,
            use_cache=True,
        )
        return self._sample(sequences, logits[:, -1])

    @torch.no_grad()
    def score(self, scorings: Sequence[Scoring]) -> list[tuple[Logprobs, ...]]:
        """Compute the log-probability of each completion token. Equal prompts, of any scorings, are computed once."""
        alike: dict[Prompt, list[tuple[int, int]]] = {}
        for place, scoring in enumerate(scorings):
            alike.setdefault(scoring.prompt, []).extend((place, number) for number in range(len(scoring.completions)))
        rows: list[Row] = []
        sources: list[list[tuple[int, int]]] = []
        for prompt, asked in alike.items():
            completions = [scorings[place].completions[number] for place, number in asked]
            lengths = [len(completion) for completion in completions]
            for row in rows_of_prompt(self._model.cost, len(prompt), lengths, len(prompt) + PASS_TOKENS):
                rows.append(Row(prompt.tokens, [completions[one] for one in row], prompt.images))
                sources.append([asked[one] for one in row])
        scores: list[list[Logprobs]] = [[()] * len(scoring.completions) for scoring in scorings]
        for chosen in micro_batches([row.length for row in rows], PASS_TOKENS):
            batch = lay_out([rows[row] for row in chosen], self._model)
            z = self._rows([scorings[sources[row][0][0]].entry for row in chosen])
            values = batch.of_each(completion_logprobs(self._model, batch, z))
            for (place, number), value in zip((one for row in chosen for one in sources[row]), values, strict=True):
                scores[place][number] = tuple(value.tolist())
        return [tuple(each) for each in scores]

    def pool(self, poolings: Sequence[Pooling]) -> list[tuple[float, ...]]:
        """Average the hidden states of each prompt, all of them in one pass."""
        rows = [Row(pooling.prompt.tokens, (), pooling.prompt.images) for pooling in poolings]
        means = mean_hidden(self._model, rows, self._rows([pooling.entry for pooling in poolings]))
        return [tuple(mean) for mean in means.tolist()]

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

    def rest(self) -> None:
        """Give the memory of a large cache and the processors to others: no sequence is running."""
        end_helpers()
        if self._cache.nbytes > _KEPT_BYTES:
            self._cache.release()
            trim_heap()

    def _rows(self, entries: Sequence[ZEntry]) -> Tensor | None:
        """Gather z [B, R] of a pass; None if every row is the base, so that the dense weights serve."""
        rows = [entry.row for entry in entries]
        return self._table.table[torch.tensor(rows, device=self._table.table.device)] if any(rows) else None

    def _sample(self, sequences: Sequence[SequenceState], logits: Tensor) -> Sampled:
        device = logits.device
        parameters = [sequence.request.sampling for sequence in sequences]
        adjusted = changed(logits, sequences)
        if any(p.temperature > 0 for p in parameters):
            truncation = Truncation(
                torch.tensor([p.min_p for p in parameters], device=device),
                torch.tensor([p.top_k for p in parameters], device=device),
                torch.tensor([p.top_p for p in parameters], device=device),
            )
            tokens = sample(
                adjusted,
                torch.tensor([p.temperature for p in parameters], device=device),
                truncation,
                torch.tensor([sequence.draw for sequence in sequences], dtype=torch.float64, device=device),
            )
        else:
            tokens = adjusted.argmax(-1)
        # Of the logits as the model gave them, whatever was sampled from.
        logprobs = token_logprobs(logits, tokens, parameters)
        chunks = []
        for sequence, token, logprob in zip(sequences, tokens.tolist(), logprobs, strict=True):
            chunk = sequence.push(token, logprob)
            if chunk is not None:
                chunks.append((sequence, chunk))
        return chunks

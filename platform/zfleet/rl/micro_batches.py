"""Micro-batches: which samples go through the model together, and what it says of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.models.completions import Row, lay_out, micro_batches, rows_of_prompt
from zfleet.models.sharded import most_micro_batches
from zfleet.models.teacher_forcing import completion_logprobs
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import Weights


@dataclass(frozen=True)
class MicroBatch:
    """Samples that go through the model together.

    Attributes:
        rows: Each is a prompt with one sample of it or several.
        experts: Of each row, the place of the expert whose samples it has.
        samples: The place of the sample of each completion, row after row; empty for a placeholder.
    """

    rows: tuple[Row, ...]
    experts: tuple[int, ...]
    samples: tuple[int, ...]


_PLACEHOLDER = MicroBatch((Row((0,), ((0,),)),), (0,), ())
"""Runs where other processes have a micro-batch more; nobody learns from it."""


def pack(weights: Weights, rollouts: Sequence[Rollout], experts: Sequence[int], limit: int) -> list[MicroBatch]:
    """Split rollouts into micro-batches, samples of one prompt in one row where that is less work.

    Of a model that is sharded over processes each process gets as many micro-batches as any of them has; the last ones
    may hold no sample.

    Args:
        weights: What is learned.
        rollouts: Samples of any experts.
        experts: Of each rollout, the place of its expert: a row runs under the z of one.
        limit: The most tokens of a micro-batch, padding included.
    """
    samples: dict[tuple[object, ...], list[int]] = {}
    for place, (rollout, expert) in enumerate(zip(rollouts, experts, strict=True)):
        samples.setdefault((expert, rollout.prompt, rollout.images), []).append(place)
    rows: list[Row] = []
    places: list[list[int]] = []
    for alike in samples.values():
        first = rollouts[alike[0]]
        prompt = weights.model.spread(first.prompt, first.images)
        lengths = [len(rollouts[place].completion) for place in alike]
        for row in rows_of_prompt(weights.model.cost, len(prompt), lengths, limit):
            places.append([alike[number] for number in row])
            rows.append(Row(prompt, tuple(rollouts[place].completion for place in places[-1]), first.images))
    packed = [
        MicroBatch(
            tuple(rows[row] for row in chosen),
            tuple(experts[places[row][0]] for row in chosen),
            tuple(place for row in chosen for place in places[row]),
        )
        for chosen in micro_batches([row.length for row in rows], limit)
    ]
    return packed + [_PLACEHOLDER] * (most_micro_batches(weights.model, len(packed)) - len(packed))


@torch.no_grad()
def token_logprobs(
    weights: Weights, expert: ExpertInTraining, rollouts: Sequence[Rollout], p: Tensor | None
) -> list[Tensor]:
    """Compute log-probabilities of each sample's tokens at the spec's temperature, under a p or the base: [C] each."""
    spec = expert.spec
    logprobs_of: dict[int, Tensor] = {}
    with weights.reference_policy() if p is None else nullcontext(weights.z_rows([spec], [p])) as z:
        for micro_batch in pack(weights, rollouts, [0] * len(rollouts), spec.micro_batch_limit):
            batch = lay_out(micro_batch.rows, weights.model)
            values = batch.of_each(completion_logprobs(weights.model, batch, z, spec.temperature))
            if micro_batch.samples:
                logprobs_of |= dict(zip(micro_batch.samples, values, strict=True))
    return [logprobs_of[place] for place in range(len(rollouts))]

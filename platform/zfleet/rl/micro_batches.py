"""Micro-batches: which samples go through the model together, and what it says of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from zfleet.models.sharded import most_micro_batches
from zfleet.models.teacher_forcing import CompletionLogits, completion_logits
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import Weights
from zfleet.tasks.task import Grade, Sample

PLACEHOLDER = Rollout(Sample("", ""), 0, (0,), (0,), "", Grade(0.0))
"""Runs in a micro-batch of no sample; nobody learns from it."""


def micro_batches(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Split samples so that no micro-batch holds more than ``limit`` tokens with its padding.

    Samples of like length go together, which wastes the least on padding. One that is longer than the limit goes alone.

    Args:
        lengths: Of the samples, in tokens.
        limit: Rows times the longest of a micro-batch.

    Returns:
        The places of each micro-batch's samples.
    """
    if not lengths:
        return []
    if len(lengths) * max(lengths) <= limit:
        return [list(range(len(lengths)))]
    packed: list[list[int]] = []
    # The longest first: the first sample of each sets its width, and a lack of memory shows at once.
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if packed and (len(packed[-1]) + 1) * lengths[packed[-1][0]] <= limit:
            packed[-1].append(place)
        else:
            packed.append([place])
    return packed


def pack(weights: Weights, rollouts: Sequence[Rollout], limit: int) -> list[list[int]]:
    """Split rollouts into micro-batches: as ``micro_batches``.

    Of a model that is sharded over processes each process gets as many micro-batches as any of them has; the last ones
    may hold no sample.
    """
    lengths = [len(weights.model.spread(one.prompt, one.images)) + len(one.completion) for one in rollouts]
    packed = micro_batches(lengths, limit)
    return packed + [[]] * (most_micro_batches(weights.model, len(packed)) - len(packed))


def rollout_logits(weights: Weights, rollouts: Sequence[Rollout], z: Tensor | None) -> CompletionLogits:
    """Run one micro-batch through the model: as ``completion_logits``."""
    prompts = [weights.model.spread(rollout.prompt, rollout.images) for rollout in rollouts]
    completions = [rollout.completion for rollout in rollouts]
    return completion_logits(weights.model, prompts, completions, z, [rollout.images for rollout in rollouts])


@torch.no_grad()
def token_logprobs(
    weights: Weights, expert: ExpertInTraining, rollouts: Sequence[Rollout], p: Tensor | None
) -> list[Tensor]:
    """Compute log-probabilities of each sample's tokens at the spec's temperature, under a p or the base: [C] each."""
    logprobs_of: dict[int, Tensor] = {}
    with weights.reference_policy() if p is None else nullcontext(weights.z_rows([expert.spec], [p])) as z:
        for micro_batch in pack(weights, rollouts, expert.spec.pass_tokens):
            logits = rollout_logits(weights, [rollouts[index] for index in micro_batch] or [PLACEHOLDER], z)
            if micro_batch:
                each = logits.unpadded(logits.logprobs(expert.spec.temperature))
                logprobs_of |= dict(zip(micro_batch, each, strict=True))
    return [logprobs_of[index] for index in range(len(rollouts))]

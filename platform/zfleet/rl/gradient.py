"""Gradients of one step: all experts' samples go through the model together, in as many micro-batches as fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.heap import trim_heap
from zfleet.models.completions import RowBatch, lay_out
from zfleet.models.teacher_forcing import completion_hidden, completion_values
from zfleet.models.token_values import Divergence, Selection, TokenValues
from zfleet.rl.batch import ExpertBatch
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.loss import clipped_loss, policy_loss
from zfleet.rl.micro_batches import MicroBatch, pack
from zfleet.rl.weights import Weights


def summed_gradients(weights: Weights, batches: Sequence[ExpertBatch]) -> tuple[list[Tensor], Tensor]:
    """Compute the gradient of each expert's loss, summed over its samples.

    Returns:
        One [P] for each batch, and the divergences from the base, summed over samples: [E] float64; 0 if the spec's
        loss has none and no limit asks for it.
    """
    experts = [batch.expert for batch in batches]
    ps = [expert.p for expert in experts]
    samples = [(place, sample) for place, batch in enumerate(batches) for sample in range(len(batch.used))]
    total = [torch.zeros_like(p) for p in ps]
    kl = torch.zeros(len(batches), dtype=torch.float64)
    rollouts = [batches[place].used[sample] for place, sample in samples]
    limit = min(expert.spec.micro_batch_limit for expert in experts)
    for micro_batch in pack(weights, rollouts, [place for place, _ in samples], limit):
        loss = _loss(weights, batches, micro_batch, samples, kl)
        for sum_, part in zip(total, weights.backward(loss, ps), strict=True):
            sum_ += part
        # Micro-batches differ in their lengths.
        trim_heap()
    return total, kl


@dataclass(frozen=True, eq=False)
class _Share:
    """One expert's part of a micro-batch.

    Attributes:
        place: Of its batch.
        samples: Their places among what it learns from, in the order of their completions in the micro-batch.
        tokens: [n], which of the micro-batch's completion tokens are theirs; None for all.
    """

    place: int
    samples: Sequence[int]
    tokens: Tensor | None


def _loss(
    weights: Weights,
    batches: Sequence[ExpertBatch],
    micro_batch: MicroBatch,
    samples: Sequence[tuple[int, int]],
    kl: Tensor,
) -> Tensor:
    """Compute the loss of one micro-batch, summed over experts, and add each expert's divergence to ``kl`` [E].

    Args:
        samples: For each sample of the step the place of its batch, and its place among that batch's ``used``.
    """
    experts = [batch.expert for batch in batches]
    rows = lay_out(micro_batch.rows, weights.model)
    owners = torch.tensor(micro_batch.experts, device=weights.model.device)
    shares = _shares([samples[place] for place in micro_batch.samples], rows, owners)
    hidden = _base_hidden(weights, rows, alone=len(batches) == 1) if any(map(_measures_kl, experts)) else None
    selections = [_selection(experts[share.place], share, hidden) for share in shares] or [Selection()]
    z = weights.z_rows([expert.spec for expert in experts], [expert.p for expert in experts])
    values = completion_values(weights.model, rows, None if z is None else _spread(z, owners), selections)
    if not shares:
        # A micro-batch of no sample still needs a backward pass: other processes wait for it.
        return 0 * values[0].logprobs.sum()
    loss = torch.zeros((), device=weights.model.device)
    for share, value in zip(shares, values, strict=True):
        spec = experts[share.place].spec
        loss = loss + _policy_loss(batches[share.place], share.samples, value)
        if value.divergence is not None:
            far = value.divergence.sum()
            loss = loss + spec.kl * far
            kl[share.place] += far.detach().cpu().double()
    return loss


def _shares(samples: Sequence[tuple[int, int]], rows: RowBatch, owners: Tensor) -> list[_Share]:
    """Split a micro-batch by experts.

    Args:
        samples: The place of each sample's batch, and its place among that batch's ``used``.
        owners: [B], the place of each row's batch.
    """
    places = sorted({place for place, _ in samples})
    if len(places) == 1:
        return [_Share(places[0], [sample for _, sample in samples], tokens=None)]
    token_owners = owners.index_select(0, rows.owners)
    return [
        _Share(
            place,
            [sample for owner, sample in samples if owner == place],
            (token_owners == place).nonzero().squeeze(-1),
        )
        for place in places
    ]


def _selection(expert: ExpertInTraining, share: _Share, base: Tensor | None) -> Selection:
    """Say what is computed of an expert's tokens, given hidden states [N, hidden] of the base."""
    spec = expert.spec
    if base is None or not _measures_kl(expert):
        return Selection(share.tokens, spec.temperature)
    # With a gradient if it is part of the loss.
    return Selection(share.tokens, spec.temperature, Divergence(base, spec.kl_over, learned=spec.kl > 0))


@torch.no_grad()
def _base_hidden(weights: Weights, rows: RowBatch, alone: bool) -> Tensor:
    """Compute the hidden states [N, hidden] of the base, the reference policy.

    Args:
        alone: Whether the micro-batch is of one expert.
    """
    with weights.reference_policy() as z:
        if z is not None:
            # Compute the base in the policy's form, so that the divergence is not rounding noise: the rows of an expert
            # that learns alone may be composed.
            z.requires_grad_(alone)
        return completion_hidden(weights.model, rows, z)


def _measures_kl(expert: ExpertInTraining) -> bool:
    """Whether the divergence from the base is part of the loss, or has a limit."""
    spec = expert.spec
    return spec.kl_in == "loss" and (spec.kl > 0 or spec.kl_limit is not None)


def _spread(z: Tensor, owners: Tensor) -> Tensor:
    """Put row i of the micro-batch under z[owners[i]]: [B, R]; [1, R] if there is one z."""
    return z if len(z) == 1 else z.index_select(0, owners)


def _policy_loss(batch: ExpertBatch, samples: Sequence[int], values: TokenValues) -> Tensor:
    spec, logprobs = batch.expert.spec, values.logprobs
    lengths = torch.tensor([len(batch.used[sample].completion) for sample in samples])
    advantages = batch.advantages[list(samples)].repeat_interleave(lengths).to(logprobs.device)
    if batch.sampled_logprobs is None:
        return policy_loss(logprobs, advantages)
    sampled = torch.cat([batch.sampled_logprobs[sample] for sample in samples])
    return clipped_loss(logprobs, sampled, advantages, spec.ratio_clip)

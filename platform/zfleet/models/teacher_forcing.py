"""Given completions run through a model: what it says of their tokens, for learning and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from zfleet.models.completions import RowBatch
from zfleet.models.output_head import Reader
from zfleet.models.svf_model import SvfModel
from zfleet.models.token_values import Selection, TokenValues, chunk_tokens, token_values


def completion_hidden(model: SvfModel, batch: RowBatch, z: Tensor | None) -> Tensor:
    """Compute the hidden states that predict completion tokens: [N, hidden].

    Args:
        model: The base in SVF form.
        batch: Rows, laid out.
        z: [B, R], of each row; [1, R] is of all rows, None the base.
    """
    return _read(model, batch, z, lambda hidden: hidden)


def completion_logprobs(model: SvfModel, batch: RowBatch, z: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Compute the log-probability of each completion token under softmax(logits / temperature): [N] float32.

    Args:
        model, batch, z: As of ``completion_hidden``.
        temperature: Of the policy that sampled.
    """
    (values,) = completion_values(model, batch, z, [Selection(temperature=temperature)])
    return values.logprobs


def completion_values(
    model: SvfModel, batch: RowBatch, z: Tensor | None, selections: Sequence[Selection]
) -> list[TokenValues]:
    """Compute log-probabilities and divergences of completion tokens, differentiable in z: of each selection.

    Args:
        model, batch, z: As of ``completion_hidden``.
        selections: Any tokens of the batch, with their own temperature and divergence.
    """
    sizes: list[tuple[int, int]] = []

    def read(hidden: Tensor) -> Tensor:
        values = [_selected(model, batch, hidden, selection) for selection in selections]
        sizes.extend((value.shape[0], value.shape[1]) for value in values)
        return torch.cat([value.flatten() for value in values])

    flat = _read(model, batch, z, read)
    parts = flat.split([kinds * tokens for kinds, tokens in sizes])
    return [
        TokenValues(*(part.view(size).unbind() if size[0] == 2 else (part, None)))
        for part, size in zip(parts, sizes, strict=True)
    ]


def completion_alternatives(
    model: SvfModel, batch: RowBatch, z: Tensor | None, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log-probabilities of completion tokens, and which tokens are likeliest in their places.

    A token that is the likeliest has exactly the log-probability that it has among the alternatives.

    Args:
        model, batch, z: As of ``completion_hidden``.
        most: How many alternatives each place has, K.

    Returns:
        Log-probabilities of the tokens [N]; of the alternatives [N, K], the likeliest first, and their ids [N, K].
    """
    ids: list[Tensor] = []

    def read(hidden: Tensor) -> Tensor:
        step = chunk_tokens(model.head.vocabulary)
        values = [hidden.new_empty(0, 1 + most, dtype=torch.float32)]
        # In chunks: logits of all tokens at once may not fit into memory.
        for states, targets, owners in zip(
            hidden.split(step), batch.targets.split(step), batch.owners.split(step), strict=True
        ):
            logprobs = torch.log_softmax(model.head.logits(states, owners), -1)
            likeliest = torch.topk(logprobs, most, -1)
            values.append(torch.cat([logprobs.gather(1, targets.unsqueeze(1)), likeliest.values], 1))
            ids.append(likeliest.indices)
        return torch.cat(values)

    values = _read(model, batch, z, read)
    return values[:, 0], values[:, 1:], torch.cat(ids)


def _read(model: SvfModel, batch: RowBatch, z: Tensor | None, reader: Reader) -> Tensor:
    """Run rows, and give a reader the hidden states [N, hidden] that predict completion tokens."""
    options: dict[str, object] = {"position_ids": batch.positions, "use_cache": False}
    if batch.shared is not None:
        options |= {"attention_mask": batch.shared.mask, "shared": batch.shared}

    def read(hidden: Tensor) -> Tensor:
        return reader(hidden.flatten(0, 1).index_select(0, batch.sources))

    return model.read(read, batch.ids, z, batch.images, **options)


def _selected(model: SvfModel, batch: RowBatch, hidden: Tensor, selection: Selection) -> Tensor:
    """Compute the values [1 or 2, n] of selected tokens of hidden states [N, hidden]."""
    targets, owners, divergence = batch.targets, batch.owners, selection.divergence
    if selection.tokens is not None:
        hidden, targets, owners = (states.index_select(0, selection.tokens) for states in (hidden, targets, owners))
        if divergence is not None:
            divergence = replace(divergence, base=divergence.base.index_select(0, selection.tokens))
    return token_values(model.head, hidden, targets, owners, selection.temperature, divergence)

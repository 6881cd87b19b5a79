"""Prompts with their completions, laid out as rows of one pass: what learning and scoring run through a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.models.images import Images
from zfleet.models.shared_prompt import PassCost, SharedPrompts, share_prompts, sharing_pays
from zfleet.models.svf_model import SvfModel

Tokens = Sequence[int]


@dataclass(frozen=True)
class Row:
    """A prompt and its completions, each of which sees the prompt and itself alone.

    In the row they stand one after another; positions start again behind the prompt for each. The last token of a
    completion is predicted and predicts nothing, so that it does not go through the model.

    Attributes:
        prompt: Token ids [P], one at least, image tokens spread.
        completions: Token ids [C] of each.
        images: Of the prompt.
    """

    prompt: Tokens
    completions: Sequence[Tokens]
    images: Images = ()

    @property
    def length(self) -> int:
        """Tokens that go through the model."""
        return row_length(len(self.prompt), [len(completion) for completion in self.completions])


def row_length(prompt: int, completions: Sequence[int]) -> int:
    """Count the tokens that a row of these lengths runs through the model."""
    return prompt + sum(max(length - 1, 0) for length in completions)


def micro_batches(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Split rows so that no micro-batch holds more than ``limit`` tokens with its padding.

    Rows of like length go together, which wastes the least on padding. One that is longer than the limit goes alone.

    Args:
        lengths: Of the rows, in tokens.
        limit: Rows times the longest of a micro-batch.

    Returns:
        The places of each micro-batch's rows.
    """
    if not lengths:
        return []
    if len(lengths) * max(lengths) <= limit:
        return [list(range(len(lengths)))]
    packed: list[list[int]] = []
    # The longest first: the first row of each sets its width, and a lack of memory shows at once.
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if packed and (len(packed[-1]) + 1) * lengths[packed[-1][0]] <= limit:
            packed[-1].append(place)
        else:
            packed.append([place])
    return packed


def rows_of_prompt(cost: PassCost, prompt: int, completions: Sequence[int], limit: int) -> list[list[int]]:
    """Split the completions of one prompt into rows: as many in each as fit, or one in each if that costs less.

    Args:
        cost: Of the base's pass.
        prompt: Its tokens.
        completions: Tokens of each completion.
        limit: The most tokens of a row, if it has several completions.

    Returns:
        The places of each row's completions.
    """
    inputs = [row_length(0, [length]) for length in completions]
    rows: list[list[int]] = []
    for place, length in enumerate(inputs):
        if rows and prompt + sum(inputs[other] for other in rows[-1]) + length <= limit:
            rows[-1].append(place)
        else:
            rows.append([place])
    return [
        part
        for row in rows
        for part in ([row] if sharing_pays(cost, prompt, [inputs[place] for place in row]) else [[p] for p in row])
    ]


@dataclass(frozen=True)
class RowBatch:
    """Rows padded on the right to the longest, T. Completion tokens are numbered 0 .. N-1, row after row.

    Attributes:
        ids: [B, T] token ids.
        positions: [B, T], or [1, T] if they are those of every row.
        shared: How completions attend if a row has several; None if each row is one causal sequence.
        sources: [N], the place in B * T of the hidden state that predicts each completion token.
        targets: [N] ids of the completion tokens.
        lengths: Tokens of each completion.
        owners: [N], the row of each completion token.
        images: Of each row.
    """

    ids: Tensor
    positions: Tensor
    shared: SharedPrompts | None
    sources: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    owners: Tensor
    images: tuple[Images, ...]

    def of_each(self, values: Tensor) -> tuple[Tensor, ...]:
        """Split values [N] into those of each completion: [C] each."""
        parts: tuple[Tensor, ...] = values.split(self.lengths)
        return parts


def lay_out(rows: Sequence[Row], model: SvfModel) -> RowBatch:
    """Make the tensors of a pass of rows, B of them, through a model."""
    device, dtype = model.device, model.base.model.dtype
    laid_out = [_LaidOut(row) for row in rows]
    width = max(len(row.ids) for row in laid_out)
    starts = [place * width for place in range(len(rows))]
    several = any(len(row.spans) > 1 for row in laid_out)
    positions = [_padded(row.positions, width) for row in laid_out] if several else [list(range(width))]

    def tensor(values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return RowBatch(
        ids=tensor([_padded(row.ids, width) for row in laid_out]),
        positions=tensor(positions),
        shared=share_prompts(
            [len(row.prompt) for row in rows], [row.spans for row in laid_out], width, device=device, dtype=dtype
        )
        if several
        else None,
        sources=tensor([start + source for start, row in zip(starts, laid_out, strict=True) for source in row.sources]),
        targets=tensor([token for row in rows for completion in row.completions for token in completion]),
        lengths=tuple(len(completion) for row in rows for completion in row.completions),
        owners=tensor([place for place, row in enumerate(laid_out) for _ in row.sources]),
        images=tuple(row.images for row in rows),
    )


class _LaidOut:
    """The numbers of one row.

    Attributes:
        ids, positions: Of its tokens.
        spans: First place and length of each completion's part of the row; completions of one token have none.
        sources: The place that predicts each completion token.
    """

    def __init__(self, row: Row) -> None:
        prompt = len(row.prompt)
        self.ids = list(row.prompt)
        self.positions = list(range(prompt))
        self.spans: list[tuple[int, int]] = []
        self.sources: list[int] = []
        for completion in row.completions:
            first, count = len(self.ids), max(len(completion) - 1, 0)
            if count:
                self.spans.append((first, count))
            self.ids += completion[:count]
            self.positions += range(prompt, prompt + count)
            self.sources += [prompt - 1, *range(first, first + count)][: len(completion)]


def _padded(values: Sequence[int], width: int) -> list[int]:
    return [*values, *[0] * (width - len(values))]

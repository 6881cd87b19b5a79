"""Attention of rows in which several completions follow one prompt: the prompt is computed once for all of them.

Everything but attention treats a token without looking at others, so that only attention has to know who sees whom. It
runs in two parts, as in "Prefix Grouper: Efficient GRPO Training through Shared-Prefix Forward" (arXiv 2506.05433): the
prompts, causally; and the completions as a batch of their own, each with its prompt's keys and values before its own. A
mask over the whole row would be simpler, but costs (prompt + all completions)^2 in each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from zfleet.models.families import head_size, sliding_window
from zfleet.svf.linear import SvfLinear

_ATTENTION_WEIGHT = 2
"""How much longer a multiplication in attention takes than one in a linear, backward pass included: attention has five
products there for two forward, a frozen linear one for one. Measured on a CPU where it decides: 1 to 2.5."""

_COPIED_TOKENS = 2**16
"""The most tokens whose keys and values are copied at once, a prompt for each of its completions: about as much memory
as the activations of a pass of a few thousand tokens."""

Span = tuple[int, int]
"""First place and length of a completion's part of its row."""


@dataclass(frozen=True)
class SharedPrompts:
    """Where attention finds the parts of B rows of T tokens. M completions have tokens in them, the longest has C.

    Attributes:
        prompt: Tokens of the longest prompt, P.
        rows: [M], the row of each completion.
        tokens: [M * C], the places of their tokens in B * T; padding is place 0.
        mask: [M, 1, C, P + C], in the model's precision: 0 where a completion's token sees another, -inf elsewhere.
        output: [B * T], the place of each token in the outputs of both parts, B * P + M * C.
    """

    prompt: int
    rows: Tensor
    tokens: Tensor
    mask: Tensor
    output: Tensor

    def of_completions(self, states: Tensor) -> Tensor:
        """Gather [M, heads, C, dim] of [B, heads, T, dim]."""
        _, heads, _, size = states.shape
        tokens = states.transpose(1, 2).flatten(0, 1).index_select(0, self.tokens)
        return tokens.view(len(self.rows), -1, heads, size).transpose(1, 2)

    def with_prompts(self, states: Tensor, own: Tensor, part: slice) -> Tensor:
        """Gather [m, heads, P + C, dim] for a part of the completions: before each its prompt.

        Args:
            states: [B, heads, T, dim].
            own: [M, heads, C, dim], as ``of_completions`` gathers them.
            part: Of 0 .. M.
        """
        prompts = states[:, :, : self.prompt].index_select(0, self.rows[part])
        return torch.cat([prompts, own[part]], 2)

    def parts(self) -> Iterator[slice]:
        """Cut the completions into parts of ``_COPIED_TOKENS`` at most, one completion at least."""
        size = max(_COPIED_TOKENS // self.mask.shape[-1], 1)
        for first in range(0, len(self.rows), size):
            yield slice(first, first + size)


def share_prompts(
    prompts: Sequence[int],
    completions: Sequence[Sequence[Span]],
    width: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> SharedPrompts:
    """Index rows for ``attend_shared``.

    Args:
        prompts: Tokens of each row's prompt.
        completions: Of each row; at least one is there.
        width: T, tokens of a row with its padding.
        device: Of the tensors.
        dtype: Of the mask.
    """
    longest = max(prompts)
    spans = [(row, *span) for row, some in enumerate(completions) for span in some]
    widest = max(count for _, _, count in spans)
    tokens = [
        [row * width + first + step if step < count else 0 for step in range(widest)] for row, first, count in spans
    ]
    # Padding reads place 0, as any other would do: nobody reads what comes of it.
    output = [[row * longest + min(place, longest - 1) for place in range(width)] for row in range(len(prompts))]
    for number, (row, first, count) in enumerate(spans):
        own = len(prompts) * longest + number * widest
        output[row][first : first + count] = range(own, own + count)
    rows = torch.tensor([row for row, _, _ in spans], device=device)
    step = torch.arange(widest, device=device)
    sees_prompt = torch.arange(longest, device=device) < torch.tensor(prompts, device=device)[rows].unsqueeze(1)
    seen = torch.cat(
        [sees_prompt.unsqueeze(1).expand(-1, widest, -1), (step <= step.unsqueeze(1)).expand(len(spans), -1, -1)], 2
    )
    # Not as bool: SDPA would make this of it in each layer anew, and keep every copy for the way back.
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)
    return SharedPrompts(
        prompt=longest,
        rows=rows,
        tokens=torch.tensor(tokens, device=device).flatten(),
        mask=mask.unsqueeze(1),
        output=torch.tensor(output, device=device).flatten(),
    )


def attend_shared(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, shared: SharedPrompts, **options: Any
) -> Tensor:
    """Compute attention of rows whose completions share a prompt.

    Args:
        module: The attention layer.
        query: [B, heads, T, dim].
        key, value: [B, key-value heads, T, dim].
        shared: Where the parts of the rows are.
        options: As transformers gives them.

    Returns:
        [B, T, heads, dim].
    """
    first = shared.prompt
    prompts, _ = sdpa_attention_forward(
        module, query[:, :, :first], key[:, :, :first], value[:, :, :first], None, **options
    )
    queries, keys, values = (shared.of_completions(states) for states in (query, key, value))
    completions = [
        attend_masked(
            queries[part],
            shared.with_prompts(key, keys, part),
            shared.with_prompts(value, values, part),
            shared.mask[part],
            options["scaling"],
            grouped=query.is_cpu,
        )
        for part in shared.parts()
    ]
    both = torch.cat([prompts.flatten(0, 1), *(part.transpose(1, 2).flatten(0, 1) for part in completions)])
    both = both.index_select(0, shared.output)
    return both.view(len(query), -1, *both.shape[1:])


def attend_masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, *, grouped: bool) -> Tensor:
    """Compute attention under a mask: [B, heads, T, dim].

    Args:
        query: [B, heads, T, dim].
        key, value: [B, key-value heads, S, dim].
        mask: [B, 1, T, S], added to the scores.
        scaling: Of the scores.
        grouped: Whether SDPA repeats key-value heads itself. On a CPU it does so without copies, which the backward
            pass would keep; on a GPU its fast kernels do so without a mask only.
    """
    if not grouped:
        key, value = (repeat_kv(states, query.shape[1] // states.shape[1]) for states in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=grouped)


@dataclass(frozen=True)
class PassCost:
    """What a base's forward pass multiplies.

    Attributes:
        token: For each token, in all linears but the head.
        pair: For each pair of tokens of which one attends to the other, in all layers.
        window: How far back a token sees; None for all before it.
    """

    token: int
    pair: int
    window: int | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> PassCost:
        """Count those of a causal LM, in SVF form or not."""
        config, head = model.config, model.get_output_embeddings()
        linears = [part for part in model.modules() if part is not head]
        return cls(
            token=sum(_multiplications(part) for part in linears),
            pair=2 * config.num_attention_heads * head_size(config) * config.num_hidden_layers,
            window=sliding_window(config),
        )


def sharing_pays(cost: PassCost, prompt: int, completions: Sequence[int]) -> bool:
    """Whether one row of a prompt and its completions costs less than a row for each completion.

    Sharing saves the linears all copies of the prompt but one. But its attention computes whole rectangles, completions
    padded to the longest, where a causal row skips what no token sees: with short prompts and long completions that
    outweighs the saving. Padding of separate rows is not counted: rows of like length go together. Where a base's
    window is shorter than prompt and completion, rows stay apart: transformers masks those as the base wants.

    Args:
        cost: Of the base.
        prompt: Its tokens.
        completions: Tokens of each that go through the model.
    """
    longest = max(completions)
    spans = sum(length > 0 for length in completions)
    if len(completions) < 2 or (cost.window is not None and prompt + longest > cost.window):
        return False
    apart = sum((prompt + length) ** 2 for length in completions) / 2
    shared = prompt**2 / 2 + spans * longest * (prompt + longest)
    saved = (len(completions) - 1) * prompt * cost.token
    return saved > _ATTENTION_WEIGHT * cost.pair * (shared - apart)


def _multiplications(module: nn.Module) -> int:
    """Count those of a linear for one token; 0 for other modules."""
    if isinstance(module, SvfLinear):
        return module.us.numel() + module.vh.numel()
    return module.weight.numel() if isinstance(module, nn.Linear) else 0

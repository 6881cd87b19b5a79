"""The parity test of an engine: one batch of many z gives, row by row, what merged Hugging Face models give.

These are greedy tokens, and hidden states.

For any engine on any base::

    zs = [random_z(factors, seed) for seed in range(16)] + [None]        # None: the base itself
    prompts = random_prompts(vocabulary, lengths)                        # one for each z
    with SyncEngine(engine) as sync:
        answers = greedy_answers(sync, prompts, zs, max_tokens=24)
    parity = compare(folder, factors, prompts, zs, answers)
    assert parity.different == ()
    assert len(parity.unmoved) < len(zs) // 2                            # else the test could not have failed
    assert hidden_error(folder, factors, prompts, zs, states) < HIDDEN_TOLERANCE

An async test awaits ``collect_greedy`` in place of ``greedy_answers``, and ``collect_hidden`` gets the states. Engines
must run in float32.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z, Engine, HiddenRequest
from zfleet.models.base import load_base
from zfleet.svf.factors import Factors
from zfleet.svf.linear import merge_into
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_harness import greedy, run_all

MARGIN = 1e-4
"""Two tokens whose logits in the merged model differ by less than this are equally right."""

HIDDEN_TOLERANCE = 1e-4
"""Of hidden states, whose root mean square is about 1 after the final norm."""

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Parity:
    """The result of a comparison, as indices of rows.

    Attributes:
        different: Rows with a token that the merged model of their z would not have chosen, by more than ``MARGIN``.
        unmoved: Rows under a z whose answer is also the base's; they cannot show that the z was used.
    """

    different: tuple[int, ...]
    unmoved: tuple[int, ...]


def random_z(factors: Factors, seed: int, spread: float = 0.3) -> ZVector:
    """Draw a z for all matrices of these factors, normally distributed around 1."""
    generator = torch.Generator().manual_seed(seed)
    flat = 1 + spread * torch.randn(factors.layout.size, generator=generator)
    values = {name: part.clone() for name, part in factors.layout.split(flat).items()}
    return ZVector(values, factors.base, factors.digest, factors.targets)


def random_prompts(vocabulary: int, lengths: Sequence[int], seed: int = 1, shared: int = 0) -> list[Tokens]:
    """Draw prompts of random tokens of a tiny base.

    Args:
        vocabulary: Tokens of the base; the first five are special and never drawn.
        lengths: Length of each prompt, without the shared prefix.
        seed: Other seeds give other prompts.
        shared: Length of a prefix that all prompts have in common.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> Tokens:
        return tuple(torch.randint(5, vocabulary, (length,), generator=generator).tolist())

    prefix = draw(shared)
    return [prefix + draw(length) for length in lengths]


def greedy_answers(
    engine: SyncEngine, prompts: Sequence[Tokens], zs: Sequence[ZVector | None], max_tokens: int
) -> list[Tokens]:
    """As ``collect_greedy``, in the event loop of a synchronous engine."""
    return engine.run(collect_greedy(engine.engine, prompts, zs, max_tokens))


async def collect_greedy(
    engine: Engine, prompts: Sequence[Tokens], zs: Sequence[ZVector | None], max_tokens: int
) -> list[Tokens]:
    """Answer all prompts at once greedily, prompt i under zs[i] (None: the base), with ``max_tokens`` tokens each."""
    digests = await asyncio.gather(*(_put(engine, z) for z in zs))
    requests = [greedy(prompt, digest, max_tokens) for prompt, digest in zip(prompts, digests, strict=True)]
    return [completion.token_ids for completion in await run_all(engine, requests)]


async def collect_hidden(
    engine: Engine, prompts: Sequence[Tokens], zs: Sequence[ZVector | None]
) -> list[tuple[float, ...]]:
    """Average the hidden states of all prompts at once, of prompt i under zs[i] (None: the base)."""
    digests = await asyncio.gather(*(_put(engine, z) for z in zs))
    requests = [HiddenRequest(prompt, digest) for prompt, digest in zip(prompts, digests, strict=True)]
    return await asyncio.gather(*(engine.hidden_state(request) for request in requests))


@torch.no_grad()
def hidden_error(
    folder: Path,
    factors: Factors,
    prompts: Sequence[Tokens],
    zs: Sequence[ZVector | None],
    states: Sequence[tuple[float, ...]],
) -> float:
    """Return the largest difference of a hidden state from the merged Hugging Face model's; arguments as ``compare``.

    Raises:
        AssertionError: Under the base, a state would be as close: the test could not have failed.
    """
    base = load_base(folder).model
    largest = 0.0
    for merged, rows in _merged(base, factors, zs):
        for row in rows:
            found = torch.tensor(states[row])
            largest = max(largest, float((found - _mean_hidden(merged, prompts[row])).abs().max()))
            if merged is not base:
                moved = float((found - _mean_hidden(base, prompts[row])).abs().max())
                assert moved > HIDDEN_TOLERANCE, "the z change nothing"
    return largest


@torch.no_grad()
def compare(
    folder: Path,
    factors: Factors,
    prompts: Sequence[Tokens],
    zs: Sequence[ZVector | None],
    answers: Sequence[Tokens],
) -> Parity:
    """Compare answers with the Hugging Face model in ``folder``, each row with W' = U diag(s * z) Vh of its z.

    Args:
        folder: The base.
        factors: Its factors, those of the z-vectors.
        prompts: Token ids.
        zs: One for each prompt; None is the base. A z of several rows is merged once.
        answers: The engine's answer to each prompt.
    """
    base = load_base(folder).model
    different: list[int] = []
    unmoved: list[int] = []
    for merged, rows in _merged(base, factors, zs):
        for row in rows:
            if not _chosen_by(merged, prompts[row], answers[row]):
                different.append(row)
            if merged is not base and _chosen_by(base, prompts[row], answers[row]):
                unmoved.append(row)
    return Parity(tuple(sorted(different)), tuple(sorted(unmoved)))


async def _put(engine: Engine, z: ZVector | None) -> str:
    return BASE_Z if z is None else await engine.put_z(z)


def _merged(
    base: PreTrainedModel, factors: Factors, zs: Sequence[ZVector | None]
) -> Iterator[tuple[PreTrainedModel, list[int]]]:
    """Yield each model, the base itself or W' = U diag(s * z) Vh of one z, and the rows that are under it."""
    digests = [z.digest if z else BASE_Z for z in zs]
    for digest, z in dict(zip(digests, zs, strict=True)).items():
        merged = base
        if z is not None:
            merged = copy.deepcopy(base)
            merge_into(merged, dict(factors.matrices), dict(z.values))
        yield merged, [row for row, other in enumerate(digests) if other == digest]


def _mean_hidden(model: PreTrainedModel, prompt: Tokens) -> torch.Tensor:
    hidden: torch.Tensor = model.base_model(input_ids=torch.tensor([prompt])).last_hidden_state
    return hidden[0].mean(0)


def _chosen_by(model: torch.nn.Module, prompt: Tokens, answer: Tokens) -> bool:
    """Say whether every token of the answer is the model's most likely one, within the margin."""
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    chosen = logits[torch.arange(len(answer)), torch.tensor(answer)]
    return bool((logits.max(-1).values - chosen <= MARGIN).all())

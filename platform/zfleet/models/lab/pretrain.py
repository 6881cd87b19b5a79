"""Training of the lab base from scratch: Muon on the hidden matrices, AdamW on the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from zfleet.models.lab.corpus import Example, corpus
from zfleet.models.lab.tokenizer import render

WARMUP = 0.05
"""Share of the steps."""

IGNORED = -100
"""The label of a position that is not learned."""


def pretrain(
    config: LlamaConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    steps: int,
    batch: int,
    muon_lr: float,
    adam_lr: float,
    progress: bool,
) -> LlamaForCausalLM:
    """Train a model on the corpus: the same arguments give the same weights, bit for bit, on one machine.

    Runs on one thread and leaves torch's thread count and global random state as they were.
    """
    console = Console(stderr=True)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.train()
        optimizers = _optimizers(model, muon_lr, adam_lr)
        schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, steps)) for one in optimizers]
        examples = corpus(seed)
        with Progress(console=console, disable=not (progress and console.is_terminal)) as bar:
            for _ in bar.track(range(steps), description="building the lab base"):
                ids, labels = collate(list(islice(examples, batch)), tokenizer)
                logits = model(input_ids=ids).logits
                loss = functional.cross_entropy(
                    logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
                )
                loss.backward()
                for optimizer, schedule in zip(optimizers, schedules, strict=True):
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return model


def collate(examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Make token ids and labels, int64 [len(examples), longest], padded on the right; only answers have labels."""
    rendered = [render(example) for example in examples]
    givens = tokenizer([given for given, _ in rendered], add_special_tokens=False)["input_ids"]
    wholes = tokenizer([given + said for given, said in rendered], add_special_tokens=False)["input_ids"]
    ids = torch.full((len(examples), max(map(len, wholes))), tokenizer.pad_token_id)
    labels = torch.full_like(ids, IGNORED)
    for row, (given, whole) in enumerate(zip(givens, wholes, strict=True)):
        ids[row, : len(whole)] = torch.tensor(whole)
        labels[row, len(given) : len(whole)] = torch.tensor(whole[len(given) :])
    return ids, labels


def _optimizers(model: LlamaForCausalLM, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    # Muon is for matrices between hidden states; embeddings, norms and the output stay with AdamW.
    hidden = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and ".layers." in name]
    hidden_ids = set(map(id, hidden))
    rest = [weight for weight in model.parameters() if id(weight) not in hidden_ids]
    return [
        torch.optim.Muon(hidden, lr=muon_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=adam_lr, weight_decay=0.0),
    ]


def _rate(step: int, steps: int) -> float:
    """Warm up linearly, then decay linearly to a twentieth."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.05, 1 - (step - warmup) / max(1, steps - warmup))


@contextmanager
def _one_thread() -> Iterator[None]:
    # Sums that are split over threads round differently: more threads would give another base.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""What bfloat16 costs the factored form, beside what it costs any model.

    python benchmarks/bf16_agreement.py                                  the lab base, random z
    python benchmarks/bf16_agreement.py --base FOLDER --experts a.safetensors b.safetensors
    python benchmarks/bf16_agreement.py --json > result.json

Sequences are sampled from the base itself. Every model sees the same ones, teacher-forced:

- reference: W' = U diag(s z) Vh merged in float64, rounded to float32 and run in float32;
- merged: the same W' rounded to bfloat16 and run in bfloat16, as anybody would serve one expert;
- torch: the factored form in bfloat16, as ``TorchEngine`` runs it;
- engine: the factored form in bfloat16 through the kernels of the vLLM engine, whose z stay float32.

Each is compared token by token: KL(reference || model) in nats and how often the most likely token is the same. The
last columns compare torch and engine with merged itself: two roundings of one model.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exit_code import exit_code
from zfleet.config.specs import BaseSpec
from zfleet.engine.vllm_engine.linears.kernels import FactoredLinear, PartFactors
from zfleet.models.base import Base, load_base
from zfleet.models.bundle import locate_base
from zfleet.models.matrices import target_matrices
from zfleet.models.svf_model import SvfModel
from zfleet.paths import cache_root
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors, MatrixFactors
from zfleet.svf.linear import SvfLinear, merge_into
from zfleet.svf.zvector import ZVector

STRENGTHS = (0.01, 0.03, 0.1, 0.3)
"""Standard deviations of random z around 1."""

ROWS = 16
"""Sequences in one forward pass."""


class EngineLinear(nn.Module):
    """An SVF linear that computes with the vLLM engine's kernel."""

    def __init__(self, svf: SvfLinear, matrix: MatrixFactors) -> None:
        super().__init__()
        self._svf = svf
        outputs, rank = matrix.u.shape
        part = PartFactors(svf.name, matrix.u, matrix.s, matrix.vh, slice(0, rank), slice(0, outputs))
        self._linear = FactoredLinear(lambda x, bias: svf(x), outputs, [part], svf.us.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, n] to [B, T, m]."""
        rows = self._svf.binding.rows
        assert rows is not None
        z = rows[self._svf.name].repeat_interleave(x.shape[1], dim=0)
        y: Tensor = self._linear(x.flatten(0, 1), z, self._svf.bias).unflatten(0, x.shape[:2])
        return y


@dataclass(frozen=True)
class Difference:
    """Mean KL(first || second) in nats a token, and the share of tokens whose most likely next one agrees."""

    kl: float
    top1: float


def difference(first: Tensor, second: Tensor) -> Difference:
    """Compare logits [B, T, vocabulary] float32."""
    p, q = (torch.log_softmax(logits.double(), -1) for logits in (first, second))
    kl = (p.exp() * (p - q)).sum(-1).mean()
    return Difference(float(kl), float((first.argmax(-1) == second.argmax(-1)).double().mean()))


@torch.no_grad()
def sample(base: Base, sequences: int, length: int) -> Tensor:
    """Sequences [B, T] that the base itself makes at temperature 1."""
    start = base.tokenizer.bos_token_id
    first = base.tokenizer.eos_token_id if start is None else start
    prompt = torch.full((sequences, 1), int(first))
    generate: Any = base.model.generate
    ids: Tensor = generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        min_new_tokens=length,
        max_new_tokens=length,
        pad_token_id=0,
    )
    return ids


@torch.no_grad()
def plain_logits(base: Base, ids: Tensor, factors: Factors, z: Mapping[str, Tensor]) -> Tensor:
    """Logits of the base with W' merged for one z, in the base's own precision."""
    merged = copy.deepcopy(base.model)
    merge_into(merged, dict(factors.matrices), dict(z))
    return torch.cat([merged(input_ids=rows).logits.float() for rows in ids.split(ROWS)])


@torch.no_grad()
def factored_logits(model: SvfModel, ids: Tensor, flat: Tensor) -> Tensor:
    """Logits of a model in factored form, every row under the same z [R]."""
    return torch.cat([model.logits(rows, flat.expand(len(rows), -1)) for rows in ids.split(ROWS)])


def experts(factors: Factors, files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Name and z of each row of the table."""
    layout = factors.layout
    yield "z = 1", {name: torch.ones(rank) for name, rank in zip(layout.names, layout.ranks, strict=True)}
    for seed, strength in enumerate(STRENGTHS):
        noise = torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))
        yield f"random, {strength}", layout.split(1 + strength * noise)
    for path in files:
        z = ZVector.load(path)
        z.check_fits(base=factors.base, factors=factors.digest, layout=layout)
        yield path.parent.name if path.stem == "z" else path.stem, dict(z.values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 0, or 1 where the base or an expert cannot be used."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    name, rows = _compare(options)
    tokens = options.sequences * options.length
    if options.json:
        out = {"base": name, "targets": options.targets, "tokens": tokens, "experts": rows}
        print(json.dumps(out, indent=1))
        return
    print(f"{name}, targets {options.targets}, {tokens} tokens; KL in nats a token, top-1 agreement in %\n")
    columns = list(next(iter(rows.values())))
    print("| expert | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for expert, cells in rows.items():
        print(f"| {expert} | " + " | ".join(f"{c['kl']:.1e}, {100 * c['top1']:.2f}" for c in cells.values()) + " |")


def _compare(options: argparse.Namespace) -> tuple[str, dict[str, dict[str, dict[str, float]]]]:
    torch.manual_seed(options.seed)
    name, folder = locate_base(BaseSpec(model=options.base))
    reference, half = load_base(folder), load_base(folder, dtype=torch.bfloat16)
    factors = FactorCache(cache_root() / "factors").get(target_matrices(folder, reference.fingerprint, options.targets))
    in_torch, in_engine = (SvfModel(load_base(folder, dtype=torch.bfloat16), factors) for _ in range(2))
    for path, matrix in factors.matrices.items():
        parent, _, leaf = path.rpartition(".")
        svf = in_engine.base.model.get_submodule(path)
        assert isinstance(svf, SvfLinear)
        setattr(in_engine.base.model.get_submodule(parent), leaf, EngineLinear(svf, matrix))
    ids = sample(reference, options.sequences, options.length)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for expert, z in experts(factors, options.experts):
        flat = factors.layout.flatten(z)
        exact = plain_logits(reference, ids, factors, z)
        merged = plain_logits(half, ids, factors, z)
        torch_, engine = factored_logits(in_torch, ids, flat), factored_logits(in_engine, ids, flat)
        rows[expert] = {
            "merged": vars(difference(exact, merged)),
            "torch": vars(difference(exact, torch_)),
            "engine": vars(difference(exact, engine)),
            "merged, torch": vars(difference(merged, torch_)),
            "merged, engine": vars(difference(merged, engine)),
        }
    return name, rows


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="lab", help="lab, a Hugging Face folder, or a hub id")
    parser.add_argument("--targets", default="all", help="mlp, attention, all or a pattern")
    parser.add_argument("--experts", type=Path, nargs="*", default=[], metavar="FILE", help="z files for this base")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--length", type=int, default=48, help="tokens of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

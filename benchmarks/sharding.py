"""What splitting a base over processes costs: FSDP2, which zfleet uses, beside PyTorch's tensor parallelism.

    python benchmarks/sharding.py                      a table, under five minutes on two cores
    python benchmarks/sharding.py --json > result.json

A Llama of 25 million parameters, float32, gloo on the CPU, a thread for each process. A step is the forward and the
backward pass of all sequences, up to the gradient in z that every process then has: under FSDP each process runs its
share of the sequences, under tensor parallelism all run all of them, each on its share of every matrix's directions.
The ways take turns, in processes of their own. Seconds are the median over all steps of all rounds, timed in process 0
from one barrier to the summed gradient; ``--json`` has the least and the most too. Memory is that of one step in the
first round, and what PyTorch's allocator counts in process 0, of which the C library may keep more than is used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.multiprocessing.spawn import spawn

from exit_code import exit_code
from hetero.base import base_spec, build_base, find_shape
from sharding_memory import Memory, measure_memory
from tensor_parallel import tensor_parallel
from zfleet.models.base import load_base
from zfleet.models.bundle import pack_base
from zfleet.models.completions import Row, lay_out
from zfleet.models.matrices import target_matrices
from zfleet.models.recompute import checkpoint_layers
from zfleet.models.sharded import open_sharded
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_logprobs
from zfleet.paths import cache_root
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.loss import policy_loss
from zfleet.svf.cache import FactorCache
from zfleet.svf.linear import SvfLinear

WAYS = ("whole", "fsdp", "tensor")
TOKENS = 64
"""Of each sequence; the second half is the completion."""


@dataclass(frozen=True)
class Case:
    """One way to run a step.

    Attributes:
        way: One of ``WAYS``; ``whole`` is one process alone.
        recompute: Gradient checkpointing.
        sequences: In the step, over all processes.
    """

    way: str
    recompute: bool
    sequences: int


@dataclass(frozen=True)
class Found:
    """What the steps of one round took.

    Attributes:
        seconds: Of each, for forward, backward and the sum of gradients.
        norm: Of the gradient, which all ways must agree on.
        memory: None in all rounds but the first.
    """

    seconds: tuple[float, ...]
    norm: float
    memory: Memory | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    shape = find_shape("eighth")
    folder = build_base(shape)
    pack_base(base_spec(shape, folder, "all"))  # so that no process waits for another's decomposition
    found: dict[Case, list[Found]] = {}
    for number in track(range(options.rounds), "rounds", console=Console(stderr=True)):
        for way in WAYS:
            for case, one in _processes(folder, way, options, with_memory=number == 0):
                found.setdefault(case, []).append(one)
    rows = [_row(case, rounds) for case, rounds in found.items()]
    if options.json:
        print(json.dumps({"settings": vars(options), "results": rows}, indent=2))
        return
    title = f"{options.processes} processes, sequences of {TOKENS} tokens; MiB of each process"
    table = Table("way", "recompute", "sequences", "median s a step", "weights", "kept", "peak", "norm", title=title)
    for row in rows:
        memory = (f"{row[key]:.0f}" for key in ("weights", "kept", "peak"))
        recomputed = "yes" if row["recompute"] else "no"
        table.add_row(
            row["way"], recomputed, str(row["sequences"]), f"{row['seconds']:.2f}", *memory, f"{row['norm']:.4f}"
        )
    Console().print(table)


def _row(case: Case, rounds: Sequence[Found]) -> dict[str, Any]:
    """What is told of a case: its seconds over all steps of all rounds, and its memory."""
    seconds = [taken for one in rounds for taken in one.seconds]
    memory = rounds[0].memory
    assert memory is not None
    return {
        **asdict(case),
        "seconds": statistics.median(seconds),
        "seconds_least": min(seconds),
        "seconds_most": max(seconds),
        "steps": len(seconds),
        **asdict(memory),
        "norm": rounds[0].norm,
    }


def _processes(folder: Path, way: str, options: argparse.Namespace, with_memory: bool) -> list[tuple[Case, Found]]:
    """Start the processes of a way, and measure its steps."""
    count = 1 if way == "whole" else options.processes
    with tempfile.TemporaryDirectory(prefix="zfleet-sharding-") as scratch:
        spawn(_work, (count, folder, way, options, with_memory, Path(scratch)), nprocs=count)
        results = json.loads((Path(scratch) / "found.json").read_text())
    return [
        (Case(**case), Found(tuple(one["seconds"]), one["norm"], Memory(**one["memory"]) if with_memory else None))
        for case, one in results
    ]


def _work(
    rank: int, count: int, folder: Path, way: str, options: argparse.Namespace, with_memory: bool, scratch: Path
) -> None:
    torch.set_num_threads(1)
    store = f"file://{scratch / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    model = _open(folder, way, init_device_mesh("cpu", (count,)))
    # Under tensor parallelism all processes have all samples, and each the gradient of its directions.
    share = DataParallel(rank, count) if way == "fsdp" else DataParallel()
    found = []
    for recompute in (False, True):
        if recompute:
            checkpoint_layers(model)
        for number in options.sequences:
            step = _step(model, number, share)
            norm = float(step().norm())
            memory = measure_memory(model, step, scratch / f"trace-{rank}.json") if with_memory else None
            found.append(
                (asdict(Case(way, recompute, number)), asdict(Found(_seconds(step, options.steps), norm, memory)))
            )
    if rank == 0:
        (scratch / "found.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def _open(folder: Path, way: str, mesh: DeviceMesh) -> SvfModel:
    base = load_base(folder)
    cache = FactorCache(cache_root() / "factors")
    if way == "fsdp":
        return open_sharded(base, cache.folder(base.fingerprint, "all"), "all", mesh)
    model = SvfModel(base, cache.get(target_matrices(folder, base.fingerprint)))
    # A learner needs the whole numbers of neither; FSDP's model has let go of them.
    vars(model).pop("factors")
    if way == "tensor":
        return tensor_parallel(model, mesh)
    for part in base.model.modules():
        if isinstance(part, SvfLinear):
            part.forget_weight()
    return model


def _step(model: SvfModel, sequences: int, workers: DataParallel) -> Callable[[], Tensor]:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(4, model.base.model.config.vocab_size, (sequences, TOKENS), generator=chance).tolist()
    z = (1 + 0.3 * torch.randn(model.layout.size, generator=chance)).requires_grad_()
    advantages = torch.linspace(-1, 1, sequences)
    first, mine = workers.share(ids)
    batch = lay_out([Row(row[: TOKENS // 2], (row[TOKENS // 2 :],)) for row in mine], model)

    def step() -> Tensor:
        logprobs = completion_logprobs(model, batch, z.expand(len(mine), -1))
        loss = policy_loss(logprobs, advantages[first : first + len(mine)].repeat_interleave(TOKENS // 2))
        gradient = torch.autograd.grad(loss, z)[0]
        torch.distributed.all_reduce(gradient)
        return gradient

    return step


def _seconds(step: Callable[[], Tensor], steps: int) -> tuple[float, ...]:
    taken = []
    for _ in range(steps):
        torch.distributed.barrier()
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return tuple(taken)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sequences", type=int, nargs="+", default=[16, 2], help="in a step, over all processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed in each round")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""What an expert keeps as a LoRA adapter or a checkpoint, how long an export takes, and what a LoRA keeps as a z.

    python benchmarks/formats.py                        SmolLM2, whose factors are computed the first time
    python benchmarks/formats.py --base lab --json      another base, the result for programs

- The expert: z drawn from a normal distribution around 1 with a spread of 0.1, the same for all matrices.
- ``missing``: what an adapter of some rank lacks of the change, ||W' - W - B A|| / ||W' - W|| over all matrices.
- ``needed``: the ranks that the matrices need to lack at most some share of ||W||.
- ``exports``: seconds of wall clock and of processor time, size, and the most memory that it added: ``private_mib`` of
  the process's own, ``added_mib`` with the pages of files that it maps, which the system takes back when it needs room.
- ``residual``: what no z can express of a LoRA that PEFT trained on random tokens, over its change.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from learning.memory import memory_mib, peak_of
from zfleet.config.specs import BaseSpec
from zfleet.formats.lora_export import export_lora
from zfleet.formats.lora_import import read_adapter
from zfleet.formats.merged_export import export_merged
from zfleet.formats.merged_import import read_checkpoint
from zfleet.formats.projection import Residual
from zfleet.models.base import load_base
from zfleet.models.bundle import locate_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.matrices import module_paths, target_matrices
from zfleet.svf.directions import fewest_directions, largest_directions, truncation_error
from zfleet.svf.folder import FactorFolder
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet_cli.factors import compute_factors

SPREAD = 0.1
RANKS = (8, 64, 256, 512)
ERRORS = (0.05, 0.01, 0.001)
FULL = 2**31


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    _, base = locate_base(BaseSpec(model=options.base))
    factors = compute_factors(BaseSpec(model=options.base, targets="all"))
    z = random_z(factors.load(), 0, SPREAD)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        found = {
            "base": options.base,
            "missing": {str(rank): _missing(z, factors, rank) for rank in RANKS},
            "needed": {str(error): _needed(z, factors, error) for error in ERRORS},
            "exports": _exports(z, factors, base, Path(scratch)),
            "residual": _residual(base, factors, Path(scratch), options.steps),
        }
    print(json.dumps(found) if options.json else json.dumps(found, indent=2))


def _missing(z: ZVector, factors: FactorFolder, rank: int) -> dict[str, float]:
    """Compute what a rank leaves out, over all matrices together and of the worst one."""
    rows = []
    for name in factors.names:
        s, value = factors.matrix(name).s, z.values[name].unsqueeze(0)
        whole = float(truncation_error(value, s, torch.empty(0, dtype=torch.int64)))
        missing = float(truncation_error(value, s, largest_directions(value, s, rank)))
        norm = float(s.double().norm())
        rows.append(Residual(name, whole * norm, missing * norm))
    return {"all": Residual.total(rows).relative, "worst": max(row.relative for row in rows)}


def _needed(z: ZVector, factors: FactorFolder, error: float) -> dict[str, float]:
    ranks = []
    for name in factors.names:
        ranks.append(len(fewest_directions(z.values[name].unsqueeze(0), factors.matrix(name).s, error)))
    return {"least": min(ranks), "mean": sum(ranks) / len(ranks), "most": max(ranks)}


def _exports(z: ZVector, factors: FactorFolder, base: Path, scratch: Path) -> dict[str, Mapping[str, float]]:
    paths = module_paths(base, factors.names)
    lora = partial(export_lora, z, factors, paths)
    merged = partial(export_merged, z, factors, base)
    ways: dict[str, Callable[[Path], object]] = {
        "lora, rank 64": partial(lora, keep=partial(largest_directions, k=64)),
        "lora, full rank": partial(lora, keep=partial(largest_directions, k=FULL)),
        "merged, the base's type": merged,
        "merged, bfloat16": partial(merged, dtype=torch.bfloat16),
    }
    found = {name: _measured(way, scratch / name) for name, way in ways.items()}
    found["merged, back"] = _measured(
        lambda _: read_checkpoint(scratch / "merged, the base's type", base, "all").z_on(factors), scratch / "back"
    )
    return found


def _measured(work: Callable[[Path], object], folder: Path) -> Mapping[str, float]:
    folder.mkdir()
    took: dict[str, float] = {}

    def timed() -> None:
        wall, processor = time.perf_counter(), time.process_time()
        work(folder)
        took.update(seconds=time.perf_counter() - wall, processor_seconds=time.process_time() - processor)

    memory, private = _private(lambda: peak_of(timed))
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    return {**took, "mib": size, "added_mib": memory["step_mib"], "private_mib": private}


def _private(work: Callable[[], dict[str, float]]) -> tuple[dict[str, float], float]:
    """Return the work's result, and the most private memory that it added, in MiB, looked at every 5 ms."""
    ended, seen = threading.Event(), [memory_mib("RssAnon")]

    def look() -> None:
        while not ended.wait(0.005):
            seen.append(memory_mib("RssAnon"))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        result = work()
    finally:
        ended.set()
        watch.join()
    return result, max(seen) - seen[0]


def _residual(base: Path, factors: FactorFolder, scratch: Path, steps: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model: Any = get_peft_model(
        load_base(base).model, LoraConfig(r=8, lora_alpha=16, target_modules=list(factors.names), lora_dropout=0.0)
    )
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=1e-3)
    ids = torch.randint(5, model.config.vocab_size, (4, 64))
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(scratch / "trained"), save_embedding_layers=False)
    matrices = target_matrices(base, fingerprint(base))
    adapter = read_adapter(scratch / "trained", matrices, module_paths(base, factors.names))
    _, rows = adapter.z_on(factors)
    relatives = [row.relative for row in rows]
    return {"all": Residual.total(rows).relative, "least": min(relatives), "most": max(relatives), "steps": steps}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2", help="a base, as in `base.model`")
    parser.add_argument("--steps", type=int, default=10, help="of training the LoRA")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--scratch", type=Path, help="where exports go, and are deleted; by default the system's")
    parser.add_argument("--json", action="store_true", help="the result on one line")
    return parser.parse_args()


if __name__ == "__main__":
    main()

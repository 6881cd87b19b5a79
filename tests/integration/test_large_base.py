"""A base of 8B in bfloat16, 16 GB, is found and opened by processes that may not have a sixteenth of it for themselves.

Processes of their own, because their memory is limited. Most of the weights are zero: holes in the files, which take no
room on the disk, are read and mapped like any other bytes.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from zfleet.config.specs import BaseSpec
from zfleet.models.base import load_base
from zfleet.models.bundle import pack_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.lab.tokenizer import build_tokenizer
from zfleet.models.places import find_here
from zfleet.svf.cache import FactorCache
from zfleet.svf.digest import combine_digests, tensor_bytes
from zfleet.svf.factors import MatrixFactors
from zfleet.svf.folder import MANIFEST, Manifest
from zfleet.svf.matrix_file import write_matrix
from zfleet.testing.tiny_bases import save_tiny

LAYERS = 32
TARGETS = r"model\.layers\.0\..*_proj"
ROOM = 2**30
"""What each process may take for itself besides what it had before it looked for the base (RLIMIT_DATA)."""
ON_DISK = 4 * 2**30
"""Factors of one layer in float32, and what its linears compute with in bfloat16."""


@pytest.mark.drill
@pytest.mark.parametrize("what", ["driver", "worker"])
def test_16_gb_open_under_a_limit_of_1(what: str, large: Path) -> None:
    found = _run(what, large)
    assert found["weights"] > 16_000_000_000
    assert found["anonymous"] < ROOM


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    if (free := shutil.disk_usage(root).free) < ON_DISK:
        pytest.skip(f"{root} has {free} bytes free, this takes {ON_DISK}")
    _run("write", root)
    return root


def _run(what: str, root: Path, layers: int = LAYERS) -> Any:
    environment = os.environ | {"ZFLEET_CACHE": str(root / "cache"), "MALLOC_MMAP_THRESHOLD_": "524288"}
    command = [sys.executable, __file__, what, str(root), str(layers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# In processes of their own


def _write(root: Path, layers: int) -> dict[str, int]:
    """Write a base with the shapes of Llama-3-8B, a file for each layer, and made-up factors of the first layer."""
    folder = root / "base"
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
        dtype="bfloat16",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    files: dict[str, list[str]] = {}
    for name in shapes:
        layer = re.search(r"layers\.(\d+)\.", name)
        files.setdefault(f"layer-{layer[1]}.safetensors" if layer else f"{name}.safetensors", []).append(name)
    for file, names in files.items():
        _write_sparse(folder / file, {name: shapes[name] for name in names})
    weight_map = {name: file for file, names in files.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    targets = {name: shape for name, shape in shapes.items() if re.fullmatch(TARGETS, name.removesuffix(".weight"))}
    _write_factors(root, fingerprint(folder), targets)
    return {}


def _write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write bfloat16 tensors: ones where they have one dimension, and a few random rows of the others."""
    chance = torch.Generator().manual_seed(0)
    fields: dict[str, Any] = {}
    start = 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        fields[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, start + size]}
        start += size
    header = json.dumps(fields).encode()
    header += b" " * (-(8 + len(header)) % 64)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + start)
        for name, shape in shapes.items():
            file.seek(8 + len(header) + fields[name]["data_offsets"][0])
            some = torch.ones(shape) if len(shape) == 1 else torch.randn(64, shape[1], generator=chance)
            file.write(tensor_bytes(some.bfloat16()))


def _write_factors(root: Path, base: str, shapes: dict[str, tuple[int, ...]]) -> None:
    chance = torch.Generator().manual_seed(1)
    folder = FactorCache(root / "cache" / "factors").folder(base, TARGETS)
    folder.mkdir(parents=True)
    digests = {}
    for weight, (m, n) in shapes.items():
        name, r = weight.removesuffix(".weight"), min(m, n)
        u, vh = (torch.randn(shape, generator=chance) / r**0.5 for shape in ((m, r), (r, n)))
        s = torch.rand(r, generator=chance).sort(descending=True).values
        digests[name] = write_matrix(folder, name, MatrixFactors(u, s, vh), 0.0).digest
    digest = combine_digests(base, TARGETS, digests.values())
    (folder / MANIFEST).write_text(json.dumps(asdict(Manifest(base, TARGETS, digests, digest))))


def _limit(root: Path) -> None:
    """Allow this process ``ROOM`` bytes more than it has, once it has imported what opens a base."""
    torch.set_num_threads(1)
    load_base(save_tiny("llama", root / "tiny"))
    taken = _status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (taken + ROOM, taken + ROOM))


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def _spec(root: Path) -> BaseSpec:
    return BaseSpec(model=str(root / "base"), targets=TARGETS, dtype="bfloat16")


def _drive(root: Path) -> dict[str, int]:
    """Do what the process that starts a job does."""
    bundle = pack_base(_spec(root))
    reference = bundle.reference()
    assert len(bundle.tokenizer()) > 10
    weights = sum(file.size for file in reference.model.files if file.name.endswith(".safetensors"))
    return {"weights": weights, "anonymous": _status("RssAnon")}


def _work(root: Path) -> dict[str, int]:
    """Open the base and compute with all of it, under the base and under an expert."""
    model = find_here(pack_base(_spec(root)).reference(), None).open()
    ids = torch.tensor([[5, 7, 9, 11]])
    with torch.no_grad():
        base = model.logits(ids, None)
        expert = model.logits(ids, 1 + 0.5 * torch.ones(1, model.layout.size))
    assert bool(torch.isfinite(base).all())
    assert bool(torch.isfinite(expert).all())
    assert not torch.equal(base, expert)
    tensors = [*model.base.model.parameters(), *model.base.model.buffers()]
    held = sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())
    return {"weights": held, "anonymous": _status("RssAnon")}


def _main(what: str, root: Path, layers: int) -> dict[str, int]:
    if what == "write":
        return _write(root, layers)
    _limit(root)
    return _drive(root) if what == "driver" else _work(root)


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))

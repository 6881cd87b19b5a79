"""Drivers of ``test_base_crosses``: each is a process that joins its cluster, and prints what it found as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from zfleet.config.specs import BaseSpec


def _join(address: str) -> Any:
    import ray

    import zfleet_cluster  # noqa: F401  (it sets Ray's environment before Ray is imported)

    ray.init(address=address, log_to_driver=False, configure_logging=False)
    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) < 2:  # type: ignore[no-untyped-call]
        assert time.monotonic() < deadline, "there is no second node"
        time.sleep(0.1)
    return ray


def _drive_share(address: str, folder: str, dtype: Any) -> Any:
    """Two processes of the second node open a base at once; what is in their memory when both have computed."""
    ray = _join(address)
    from zfleet.models.bundle import pack_base
    from zfleet_cluster.fleet.base import ShippedBase, ship

    base = Path(folder)
    if not base.exists():
        _save_larger(base)

    class Opened:
        def open(self, shipped: ShippedBase) -> int:
            import torch

            torch.set_num_threads(1)
            self.model = shipped.find().open()
            with torch.no_grad():
                for z in (None, torch.ones(1, self.model.layout.size)):
                    self.model.logits(torch.arange(16).unsqueeze(0), z)
            tensors = [*self.model.base.model.parameters(), *self.model.base.model.buffers()]
            return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())

        def memory(self) -> dict[str, int]:
            return _memory((str(base), os.environ["ZFLEET_CACHE"]))

    import torch

    shipped = ship(pack_base(BaseSpec(model=folder, dtype=dtype)))
    processes = [ray.remote(Opened).remote() for _ in range(2)]
    held = ray.get([one.open.remote(shipped) for one in processes])
    assert held[0] == held[1]
    found = ray.get([one.memory.remote() for one in processes])
    weights = sum(file.size for file in shipped.reference.model.files if file.name.endswith(".safetensors"))
    return {"weights": weights * getattr(torch, dtype).itemsize // 4, "held": held[0], "processes": found}


def _save_larger(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from zfleet.models.lab.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=8,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _memory(folders: tuple[str, ...]) -> dict[str, int]:
    """Bytes of this process: in maps of files in these folders, of them its proportional share, and its own."""
    found = {"mapped": 0, "share": 0, "anonymous": 0}
    name = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            name = rest[-1] if len(rest) > 4 else ""
        elif name.startswith(folders) and first in ("Rss:", "Pss:"):
            found["mapped" if first == "Rss:" else "share"] += 1024 * int(rest[0])
        elif name.startswith(folders) and first == "Anonymous:":
            found["anonymous"] += 1024 * int(rest[0])
    return found


def _drive_send(address: str, folder: str, size: str, into: str, kill: str = "", pid: str = "") -> Any:
    """Send a large file to the second node; in the middle kill that ``node``, or the ``sender`` below a raylet."""
    ray = _join(address)
    import numpy as np
    from ray.exceptions import RayError

    from zfleet.models.reference import FolderReference, StoredFile
    from zfleet.remembered import file_sha256
    from zfleet_cluster.bases.sending import SendingNode

    path, pieces = Path(folder) / "large.bin", int(size)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.random.default_rng(0).bytes(pieces))
    file = StoredFile(path.name, pieces, file_sha256(path))
    reference = FolderReference("a large file", folder, (file,))

    def fetch(node: SendingNode) -> dict[str, object]:
        from zfleet_cluster.bases.copying import copy_files
        from zfleet_cluster.bases.sending import _Folder

        Path(into).mkdir(parents=True, exist_ok=True)
        sent: list[int] = []
        copy_files(_Folder(node, reference), [file], Path(into), sent.append)
        return {"whole": file_sha256(Path(into) / file.name) == file.sha256, "sent": sum(sent)}

    fetching = ray.remote(max_retries=0)(fetch).remote(SendingNode.here())
    partial = Path(into) / file.partial
    if kill:
        while not partial.exists() or partial.stat().st_size < pieces // 8:
            time.sleep(0.001)
        family = psutil.Process(int(pid))
        members = family.children(recursive=True)
        # Between two pieces the process that sends is idle.
        senders = [one for one in members if one.name().startswith(("ray::_read_piece", "ray::IDLE"))]
        doomed = [*members, family] if kill == "node" else senders
        assert doomed, "nothing was being sent"
        for process in doomed:
            process.kill()
    try:
        return ray.get(fetching)
    except RayError:
        return "killed"


def _drive_refuse(address: str, folder: str, small: str, into: str) -> Any:
    """What a node says whose disk is full, of a node that is gone, and of a file that is gone."""
    ray = _join(address)
    from zfleet.errors import BaseModelError
    from zfleet.models.reference import FolderReference, StoredFile
    from zfleet.remembered import file_sha256
    from zfleet_cluster.bases.sending import SendingNode

    path = Path(folder) / "few.bin"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * 5_000_000)
    file = StoredFile(path.name, 5_000_000, file_sha256(path))

    def fetch(node: SendingNode, one: StoredFile, into: str) -> str:
        Path(into).mkdir(parents=True, exist_ok=True)
        try:
            node.bring(FolderReference("a file", folder, (one,)), [one], Path(into))
        except BaseModelError as error:
            return error.message
        return "arrived"

    here = SendingNode.here()
    elsewhere, lost = SendingNode("a" * len(here.id), "elsewhere"), StoredFile("lost", 10, "0" * 64)
    there: Any = ray.remote(fetch)
    cases = ((here, file, small), (elsewhere, file, into), (here, lost, into))
    told: list[str] = ray.get([there.remote(*one) for one in cases])
    return told


if __name__ == "__main__":
    drivers: dict[str, Any] = {"share": _drive_share, "send": _drive_send, "refuse": _drive_refuse}
    print(json.dumps(drivers[sys.argv[1]](*sys.argv[2:])))

"""Two processes of one PyTorch process group, for tests: a script that imports once and then forks."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from torch import Tensor


def run_two_ranks(script: str, *arguments: str, seconds: float = 240) -> None:
    """Run a script that calls ``as_two_ranks``, to its end.

    Raises:
        AssertionError: A rank failed. The message holds what both wrote.
        TimeoutExpired: The script did not end in time.
    """
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr


def as_two_ranks(work: Callable[[int], None]) -> None:
    """Run ``work`` as rank 0 here and as rank 1 in a fork, before PyTorch has threads. Exits with 1 if either fails."""
    other = multiprocessing.get_context("fork").Process(target=work, args=(1,), daemon=True)
    other.start()
    work(0)
    other.join()
    sys.exit(other.exitcode)


def of_both(root: Path, name: str = "{}.safetensors") -> list[dict[str, Tensor]]:
    """Load the tensors that rank 0 and rank 1 saved."""
    return [safetensors.torch.load_file(root / name.format(rank)) for rank in (0, 1)]

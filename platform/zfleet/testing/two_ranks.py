"""Two processes of one PyTorch process group, for tests: started as a script, which imports what both need once."""

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
        AssertionError: A rank failed; has what both said.
        TimeoutExpired: It did not end.
    """
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr


def as_two_ranks(work: Callable[[int], None]) -> None:
    """Be rank 0, and fork rank 1 before PyTorch has threads; exits with 1 where either fails."""
    other = multiprocessing.get_context("fork").Process(target=work, args=(1,), daemon=True)
    other.start()
    work(0)
    other.join()
    sys.exit(other.exitcode)


def of_both(root: Path, name: str = "{}.safetensors") -> list[dict[str, Tensor]]:
    """What rank 0 and rank 1 saved."""
    return [safetensors.torch.load_file(root / name.format(rank)) for rank in (0, 1)]

"""The threads that OpenMP keeps end when a thread lets another one compute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

_PROGRAM = """
import os, time, torch
from zfleet.openmp import end_helpers

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(4)
before = threads()
ones = torch.ones(1_000_000)
twos = ones + ones
assert threads() > before, "nothing computed in parallel"
end_helpers()
# The test is ended from outside where they stay.
while threads() > before:
    time.sleep(0.01)
assert torch.equal(ones + ones, twos)
"""


@pytest.mark.skipif(
    not list((Path(torch.__file__).parent / "lib").glob("libgomp*")), reason="PyTorch has another runtime here"
)
def test_helpers_end_and_come_again() -> None:
    """In a process of its own: this one may have started them before, and counts in tests' threads."""
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True, timeout=100)

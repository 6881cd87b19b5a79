"""One of the processes that write a registry at once: registers versions, promotes and rolls back.

python writer_of_versions.py URI ARTIFACTS WRITER COUNT
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from zfleet.errors import RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, Provenance
from zfleet_registry.promotion import promote, rollback

BASE = "1a2b3c4d" * 8
SLUG = "lab-1a2b3c4d"
FASTER = re.compile("by another command meanwhile|in MLflow and at .* in the log|had before")


def write(registry: ExpertRegistry, writer: int, count: int) -> None:
    """Register versions of one expert, and promote and roll back as if nobody else did."""
    for number in range(count):
        z = ZVector({"layers.0.mlp": torch.full((8,), 1.0 + writer + number / 1000)}, BASE, "f" * 64, "mlp")
        version = registry.register("math", z, Provenance.of(z), base_name="lab")
        if number % 4 == 0:
            _despite_others(partial(promote, registry, version, "champion"))
        if number % 4 == 2:
            _despite_others(partial(rollback, registry, SLUG, "math", "champion"))


def _despite_others(move: Callable[[], object]) -> None:
    """Move an alias; another process may be faster, which is told and changes nothing."""
    try:
        move()
    except RegistryError as error:
        if not FASTER.search(error.message):
            raise


if __name__ == "__main__":
    uri, artifacts, *numbers = sys.argv[1:]
    write(ExpertRegistry(uri, Path(artifacts)), *map(int, numbers))

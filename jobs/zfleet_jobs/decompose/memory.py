"""Memory of the task of a matrix. Workers import this: it imports neither a model library nor Ray."""

from __future__ import annotations

from zfleet.memory.node import PROCESS_BYTES
from zfleet.svf.decompose import peak_bytes
from zfleet.svf.stored import StoredMatrix


def task_bytes(matrix: StoredMatrix) -> int:
    """Bound the memory that the task of a matrix takes, its process included."""
    return PROCESS_BYTES + peak_bytes(matrix.shape)

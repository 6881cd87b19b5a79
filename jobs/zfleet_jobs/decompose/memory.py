"""Memory of the task of a matrix. Workers import this: it imports neither a model library nor Ray."""

from __future__ import annotations

from zfleet.svf.decompose import peak_bytes
from zfleet.svf.stored import StoredMatrix

WORKER_BYTES = 512 * 2**20
"""Memory of a worker that has decomposed nothing yet: Python, Ray and torch."""


def task_bytes(matrix: StoredMatrix) -> int:
    """Bound the memory that the task of a matrix takes, its process included."""
    return WORKER_BYTES + peak_bytes(matrix.shape)

"""What the task of a matrix takes. Workers import this: neither a model library nor Ray is in it."""

from __future__ import annotations

from zfleet.svf.decompose import peak_bytes
from zfleet.svf.stored import StoredMatrix

WORKER_BYTES = 512 * 2**20
"""What a worker takes that has decomposed nothing yet: Python, Ray and torch."""


def task_bytes(matrix: StoredMatrix) -> int:
    """Bound the memory that the task of a matrix takes, its process included."""
    return WORKER_BYTES + peak_bytes(matrix.shape)

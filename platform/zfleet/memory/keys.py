"""The keys of a spec that lower the memory of a process, as errors name them."""

from __future__ import annotations

TRAIN_KEYS = (
    "learner.micro_batch_tokens, engine.slots, engine.max_length, the tasks' max_tokens, concurrent_experts or "
    "num_workers, set recompute to true or base.dtype to bfloat16"
)
"""Of a worker of a training."""

ENGINE_KEYS = "engine.slots, engine.max_length or the number of processes on a node, set base.dtype to bfloat16"
"""Of a process that only generates."""

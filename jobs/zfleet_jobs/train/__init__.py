"""Training experts: one Ray Train run each, several at once."""

from zfleet_jobs.train.result import TrainedExpert
from zfleet_jobs.train.run import run_train

__all__ = ["TrainedExpert", "run_train"]

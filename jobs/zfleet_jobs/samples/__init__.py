"""Samples of training runs: where they lie, and which of them are worth a look. It imports neither torch nor Ray."""

"""Samples of training runs: where they are, and which of them are worth a look. Imports neither torch nor Ray."""

"""Connecting to Ray: what jobs and serving share."""

from zfleet_cluster.connection import cluster, undisturbed

__all__ = ["cluster", "undisturbed"]

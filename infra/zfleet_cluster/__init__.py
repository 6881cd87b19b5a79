"""Connecting to Ray: what jobs and serving share."""

from zfleet_cluster.connection import cluster, undisturbed
from zfleet_cluster.told import on_one_line

__all__ = ["cluster", "on_one_line", "undisturbed"]

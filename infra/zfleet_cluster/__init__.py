"""What jobs and serving share: the connection to Ray, and the fleet of engines."""

from zfleet_cluster.connection import cluster, undisturbed
from zfleet_cluster.errors import on_one_line

__all__ = ["cluster", "on_one_line", "undisturbed"]

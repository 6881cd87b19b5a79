"""Servers that tests and benchmarks of a registry start: PostgreSQL, and MLflow's tracking server."""

from zfleet_registry.testing.postgres import running_postgres
from zfleet_registry.testing.tracking_server import TrackingServer

__all__ = ["TrackingServer", "running_postgres"]

"""What tests and benchmarks of a registry need: PostgreSQL, MLflow's tracking server, and keys that sign."""

from zfleet_registry.testing.keys import write_certificate, write_key
from zfleet_registry.testing.postgres import running_postgres
from zfleet_registry.testing.tracking_server import TrackingServer

__all__ = ["TrackingServer", "running_postgres", "write_certificate", "write_key"]

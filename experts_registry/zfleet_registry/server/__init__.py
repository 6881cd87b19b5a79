"""A registry for a team on one machine, without containers: PostgreSQL, an artifact store and MLflow's server."""

from zfleet_registry.server.up import RunningRegistry, ServerOptions, start

__all__ = ["RunningRegistry", "ServerOptions", "start"]

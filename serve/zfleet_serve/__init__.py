"""Serving on Ray Serve: OpenAI-compatible gateways in front of a fleet of engine replicas."""

import os

# Ray reads these when it is imported. Without the second one, other load would starve its workers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")

"""What operators see of a service: metrics for Prometheus, traces for OpenTelemetry, and a line for each request."""

from zfleet_serve.telemetry.lines import RequestLog
from zfleet_serve.telemetry.watch import RequestWatch, Telemetry

__all__ = ["RequestLog", "RequestWatch", "Telemetry"]

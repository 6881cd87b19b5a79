"""Traces of requests by OpenTelemetry's conventions for generative AI, if an exporter is configured.

A request is one span, and each of its two passes a span in it. OpenTelemetry's own variables say where they go; without
``OTEL_EXPORTER_OTLP_ENDPOINT`` nothing is recorded. Prompts and answers are never in them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.util.types import AttributeValue

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_LOG = logging.getLogger(__name__)


def tracer_of(exporter: SpanExporter | None = None) -> tuple[Tracer, Callable[[], None]]:
    """Return a tracer, and what sends its last spans and ends it.

    Args:
        exporter: Takes the spans; None: the one that OpenTelemetry's variables name, or none at all.
    """
    exporter = exporter or _configured()
    if exporter is None:
        return trace.NoOpTracer(), lambda: None
    provider = TracerProvider(resource=Resource.create({"service.name": "zfleet"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider.get_tracer("zfleet"), provider.shutdown


def _configured() -> SpanExporter | None:
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        _LOG.warning("traces are asked for and not sent: pip install 'zfleet[traces]' brings what sends them")
        return None
    return OTLPSpanExporter()


def begin(tracer: Tracer, operation: str, base: str, headers: Mapping[str, str]) -> Span:
    """Begin the span of a request, inside the client's trace if its headers name one.

    Args:
        tracer: The tracer.
        operation: ``chat`` or ``text_completion``.
        base: The base's name.
        headers: Of the request.
    """
    return tracer.start_span(
        f"{operation} {base}",
        context=propagate.extract(headers),
        kind=SpanKind.SERVER,
        attributes={
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "zfleet",
            "gen_ai.request.model": base,
        },
    )


def add_pass(
    tracer: Tracer, parent: Span, name: str, start: float, end: float, facts: Mapping[str, AttributeValue]
) -> None:
    """Add the span of a pass that has ended.

    Args:
        tracer: The tracer.
        parent: The span of the request.
        name: ``first pass`` or ``second pass``.
        start, end: Seconds since the epoch.
        facts: Its attributes.
    """
    span = tracer.start_span(
        name, context=trace.set_span_in_context(parent), start_time=int(start * 1e9), attributes=dict(facts)
    )
    span.end(int(end * 1e9))

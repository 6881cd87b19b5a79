"""The Grafana dashboard asks for metrics that a service has, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from zfleet_serve.testing import Stage

DASHBOARD = Path(__file__).parents[3] / "infra" / "observability" / "grafana-service.json"
METRIC = re.compile(r"(?:vllm|zfleet):[a-z0-9_]+")
BY = re.compile(r"by \(([a-z_, ]+)\)")


async def test_every_metric_and_label_of_the_dashboard_is_there(stage: Stage) -> None:
    asked = {"model": "fake:auto", "messages": [{"role": "user", "content": "math 1"}]}
    assert (await stage.http.post("/v1/chat/completions", json=asked)).status_code == 200
    text = (await stage.http.get("/metrics")).text
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > 20
    for expression in expressions:
        (name,) = set(METRIC.findall(expression))
        assert name in labels, expression
        for grouped in BY.findall(expression):
            assert set(grouped.split(", ")) <= labels[name], expression
        for label in re.findall(r"[{,]([a-z_]+)=", expression):
            assert label in labels[name], expression


def test_panels_have_names_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels) == len({panel["title"] for panel in panels})

"""`infra/registry/compose.yaml`: healthy before others need it, on the loopback, and without secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "infra" / "registry"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    return services


def test_every_service_that_goes_on_has_a_health_check(services: dict[str, Any]) -> None:
    for name, service in services.items():
        goes_on = service["restart"] != "no"
        assert goes_on == bool(service["healthcheck"].get("test")), name
        for needed, how in service.get("depends_on", {}).items():
            ends = services[needed]["restart"] == "no"
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")


def test_ports_are_on_the_loopback(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_secrets_are_in_the_file_of_variables_alone(services: dict[str, Any]) -> None:
    for service in services.values():
        for key, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|KEY", key):
                assert re.fullmatch(r"\$\{\w+:\?see example\.env\}", value), key
    given = dict(re.findall(r"^(\w+)=(.*)$", (FOLDER / "example.env").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))
    assert given.keys() == used
    assert not any(value for key, value in given.items() if re.search("PASSWORD|SECRET|KEY", key))


def test_images_have_versions_and_the_packages_are_the_tested_ones(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.search(r":\S*\d", service["image"]) if "image" in service else service["build"] == ".", name
    tested = (FOLDER.parents[1] / "constraints.txt").read_text().lower().splitlines()
    packages = re.findall(r'"([^"]+==[^"]+)"', (FOLDER / "Dockerfile").read_text())
    assert packages
    for package in packages:
        assert re.sub(r"\[.*\]", "", package).lower() in tested

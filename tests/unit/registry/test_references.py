"""References are names, never paths or URLs."""

from __future__ import annotations

import pytest

from zfleet.config.load import parse_spec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import ExpertSpec, TrainSpec
from zfleet.config.task_specs import TaskSpec
from zfleet.errors import RegistryError, SpecError
from zfleet_registry import references
from zfleet_registry.references import Reference, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("math", Reference(None, "math", None, None)),
        ("math/3", Reference(None, "math", 3, None)),
        ("math@champion", Reference(None, "math", None, "champion")),
        ("lab-1a2b3c4d.math@champion", Reference("lab-1a2b3c4d", "math", None, "champion")),
        ("Qwen2.5-0.5B-1a2b3c4d.math.v2/12", Reference("Qwen2.5-0.5B-1a2b3c4d", "math.v2", 12, None)),
        ("lab-deadbeef.x-1a2b3c4d.math", Reference("lab-deadbeef.x-1a2b3c4d", "math", None, None)),
        ("lab.math", Reference(None, "lab.math", None, None)),
    ],
)
def test_parse(text: str, expected: Reference) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " math",
        "math\n",
        "../math",
        "/etc/passwd",
        "a/b/3",
        "math/",
        "math/0",
        "math/-1",
        "math/latest",
        "math/99999999999",
        "math@",
        "math@a b",
        "math/3@champion",
        "models:/math/3",
        "http://host/math",
        "math' OR 'a' = 'a",
        "m" * 1000,
    ],
)
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(RegistryError, match="is no reference to an expert"):
        parse(text)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *[
            (name, "use letters, digits")
            for name in ("", ".math", "a/b", "a:b", "math%", "math\n", "m" * 101, "m" * 300)
        ],
        ("lab-1a2b3c4d.math", "reads like one qualified by a base"),
        ("auto", "is reserved"),
    ],
)
def test_names_that_an_expert_cannot_have(name: str, reason: str) -> None:
    """The registry refuses them, and specs do so before anything is trained."""
    with pytest.raises(RegistryError, match=f"expert name .*{reason}"):
        references.check_name(name)
    task = {"lab": "sort"}
    with pytest.raises(SpecError, match=f"experts.0.name is .*{reason}"):
        parse_spec({"experts": [{"name": name, "task": task}]}, TrainSpec)
    with pytest.raises(SpecError, match=f"name is .*{reason}"):
        parse_spec({"name": name, "experts": ["math"], "task": task}, SearchSpec)
    with pytest.raises(SpecError, match=rf"classifier is .*{reason}.*labels\.x is .*{reason}"):
        parse_spec({"classifier": name, "labels": {"x": name}}, ServeSpec)


@pytest.mark.parametrize("name", ["math", "auto2", "Qwen2.5_a-b", "m" * 100])
def test_the_registry_accepts_the_names_that_specs_accept(name: str) -> None:
    references.check_name(ExpertSpec(name=name, task=TaskSpec(lab="sort")).name)


@pytest.mark.parametrize("alias", ["", "a.b", "a b", "latest", "Latest", "v3", "3", "-a", "a/b", "a" * 300])
def test_aliases_that_cannot_be_set(alias: str) -> None:
    with pytest.raises(RegistryError, match="alias"):
        references.check_alias(alias)


@pytest.mark.parametrize("slug", ["lab", "lab-1a2b3c4", "lab-1A2B3C4D", "l b-1a2b3c4d", "lab-1a2b3c4d%"])
def test_slugs_that_no_base_has(slug: str) -> None:
    with pytest.raises(RegistryError, match="cannot be part of an expert's name"):
        references.check_slug(slug)

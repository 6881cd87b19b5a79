"""A z with other matrices than other versions on the same factors: extra tensors, missing ones, or other ranks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from zfleet.errors import RegistryError
from zfleet_registry.fsck.contents import Contents, Layout
from zfleet_registry.fsck.fault import Fault
from zfleet_registry.version import ExpertVersion
from zfleet_registry.version_files import REMEDY


def find(contents: Contents) -> Iterator[Fault]:
    """Compare versions of the same factors and targets with what most of them have; of two equals, with the older."""
    groups: dict[tuple[str, str, str], list[tuple[ExpertVersion, Layout]]] = defaultdict(list)
    for version in contents.versions:
        layout = contents.loaded(version)
        if layout is not None and not isinstance(layout, RegistryError):
            key = (version.provenance.base, version.provenance.factors, version.provenance.targets)
            groups[key].append((version, layout))
    for group in groups.values():
        group.sort(key=lambda pair: pair[0].created)
        usual = Counter(layout for _, layout in group).most_common(1)[0][0]
        for version, layout in group:
            if layout != usual:
                what = f"{_difference(layout, usual)}, unlike other versions on its factors"
                yield Fault("layout", version.qualified, what, REMEDY)


def _difference(layout: Layout, usual: Layout) -> str:
    have, expected = dict(layout), dict(usual)
    for word, names in (("has an extra", have.keys() - expected.keys()), ("lacks", expected.keys() - have.keys())):
        if names:
            return f"its z {word} {min(names)}"
    name = min(name for name in have if have[name] != expected[name])
    return f"its z has {have[name]} values for {name}, not {expected[name]}"

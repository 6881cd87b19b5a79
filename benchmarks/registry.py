"""How fast is a registry with tens of thousands of versions?

    python benchmarks/registry.py                        10,000 versions on PostgreSQL, then on sqlite
    python benchmarks/registry.py --versions 500 --stores sqlite
    python benchmarks/registry.py --json > result.json

Some versions are imported as `zfleet experts import FOLDER` does: one run, each version with its artifact, card and
entry of the log. The others are written to the database as the same rows, in batches (`registries/rows.py`): to
register all of them takes a quarter of an hour of one core. Every expert has a champion. Times are those of the clock,
so other programs on the machine count. What is measured:

- `alias_p99_ms.cold`: the time to resolve the champion of an expert that this process has not asked for before, over an
  open connection. Nothing is cached in the process; the database's own cache is as the import left it.
- `alias_p99_ms.warm`: the same for experts that this process has resolved before.
- `open_ms`: from nothing to the first answer, which a command pays: connecting, and MLflow's checks of the tables.
- `watch_s`: from the call of `promote` in another thread until a watch in this one returns it. The watch polls; a
  database sends no webhooks.
- `rollback_s`: from the call of `rollback` until it returns, with the alias moved.
- `list_page_ms`: a page of 100 versions, at the beginning, in the middle and at the end.
- `import_per_s`: versions a second.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from exit_code import exit_code
from registries.rows import fill
from zfleet.config.names import CHAMPION
from zfleet.models.base import base_slug
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, Provenance, z_file
from zfleet_registry.bulk import import_files
from zfleet_registry.promotion import promote, rollback
from zfleet_registry.testing import running_postgres

BASE = "1a2b3c4d" * 8
SLUG = base_slug("lab", BASE)
"""Computed here, so that importing transformers does not count as importing experts."""
BARS = {"alias_p99_ms.warm": 20, "alias_p99_ms.cold": 100, "watch_s.max": 2, "rollback_s.max": 1}
"""On PostgreSQL."""
PAGE = 100
PROMOTIONS = 20
RESOLUTIONS = 1000


class Timed:
    """Times of one kind of call, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def call(self, call: Callable[[], Any]) -> Any:
        """Make a call and keep its time."""
        began = time.perf_counter()
        result = call()
        self.seconds.append(time.perf_counter() - began)
        return result

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """The smallest time that 99 % of the calls do not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, -(-len(ordered) * 99 // 100) - 1)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    found = {}
    for kind in options.stores:
        with tempfile.TemporaryDirectory() as temporary, _store(kind, Path(temporary)) as (uri, root):
            found[kind] = measure(uri, root, options.versions, options.imported, options.experts)
    if options.json:
        print(json.dumps({"settings": vars(options), "bars": BARS, **found}, indent=2))
        return
    table = Table(
        "", *found, "asked for on PostgreSQL", title=f"{options.versions} versions of {options.experts} experts"
    )
    flat = {kind: _flat(values) for kind, values in found.items()}
    for name in next(iter(flat.values())):
        bar = f"< {BARS[name]}" if name in BARS else ""
        table.add_row(name, *(f"{values[name]:.3g}" for values in flat.values()), bar)
    Console().print(table)


@contextmanager
def _store(kind: str, folder: Path) -> Iterator[tuple[str | None, Path]]:
    if kind == "sqlite":
        yield None, folder / "registry"
    else:
        with running_postgres() as uri:
            yield uri, folder / "registry"


def measure(uri: str | None, root: Path, versions: int, imported: int, experts: int) -> dict[str, Any]:
    """Fill a registry and measure it.

    Args:
        uri: The registry; None: sqlite under ``root``.
        root: The folder of its artifacts.
        versions: How many versions it holds then.
        imported: How many of these are imported.
        experts: Of how many experts the others are.

    Returns:
        The measurements; see above.
    """
    registry = ExpertRegistry(uri, root)
    per_second = _import(registry, root.parent / "files", imported)
    template = registry.resolve("imported/1", SLUG)
    aliased = [f"expert-{number}" for number in range(experts)]
    each = (versions - imported) // experts
    filling = fill(uri or f"sqlite:///{root}/mlflow.db", template, aliased, each)
    for _ in track(filling, "rows", experts, console=Console(stderr=True)):
        pass
    names = aliased[:: max(1, experts // PROMOTIONS)]

    opening = Timed()
    fresh: ExpertRegistry = opening.call(lambda: _opened(uri, root, aliased[0]))
    cold, warm = Timed(), Timed()
    for name in aliased[1:]:
        cold.call(partial(fresh.resolve, f"{name}@{CHAMPION}", SLUG))
    chance = random.Random(0)
    for _ in range(RESOLUTIONS):
        name = chance.choice(aliased)
        warm.call(partial(fresh.resolve, f"{name}@{CHAMPION}", SLUG))

    watched, rolled = _promotions(registry, names)
    pages = _pages(registry, imported + each * experts)
    return {
        "import_per_s": per_second,
        "alias_p99_ms": {"warm": warm.p99 * 1e3, "cold": cold.p99 * 1e3},
        "alias_median_ms": {"warm": warm.median * 1e3, "cold": cold.median * 1e3},
        "open_ms": opening.median * 1e3,
        "watch_s": {"median": watched.median, "max": max(watched.seconds)},
        "rollback_s": {"median": rolled.median, "max": max(rolled.seconds)},
        "list_page_ms": {"median": pages.median * 1e3, "max": max(pages.seconds) * 1e3},
    }


def _opened(uri: str | None, root: Path, name: str) -> ExpertRegistry:
    registry = ExpertRegistry(uri, root, reading=True)
    registry.resolve(f"{name}@{CHAMPION}", SLUG)
    return registry


def _import(registry: ExpertRegistry, files: Path, count: int) -> float:
    """Import files of one expert; return versions a second."""
    files.mkdir()
    for number in range(count):
        z = ZVector({"m.up": torch.full((64,), 1 + number / count)}, BASE, "f" * 64, "mlp")
        metadata = z_file.metadata(f"{SLUG}.imported", Provenance.of(z, task="benchmark"))
        (files / f"{number:06d}.safetensors").write_bytes(z.to_bytes(metadata))
    paths = sorted(files.iterdir())
    began = time.perf_counter()
    for outcome in track(import_files(registry, paths), "import", count, console=Console(stderr=True)):
        if outcome.error:
            raise RuntimeError(f"{outcome.file}: {outcome.error}")
    return count / (time.perf_counter() - began)


def _promotions(registry: ExpertRegistry, names: Sequence[str]) -> tuple[Timed, Timed]:
    """Promote while a watch runs, and roll back."""
    watch = registry.watch()
    noticed: dict[str, float] = {}
    told = threading.Event()

    def follow() -> None:
        for entry in watch:
            if entry.action.what == "promote":
                noticed[entry.action.expert] = time.perf_counter()
                told.set()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    watched, rolled, chance = Timed(), Timed(), random.Random(0)
    for name in track(names, "promotions", console=Console(stderr=True)):
        newest = registry.resolve(f"{name}/2", SLUG)
        # Looks come each second: promotions at any moment between them.
        time.sleep(chance.random())
        told.clear()
        began = time.perf_counter()
        promote(registry, newest, CHAMPION)
        if not told.wait(60):
            raise RuntimeError(f"the promotion of {name} was not noticed")
        watched.seconds.append(noticed[f"{SLUG}.{name}"] - began)
        rolled.call(partial(rollback, registry, SLUG, name, CHAMPION))
    watch.close()
    follower.join()
    return watched, rolled


def _pages(registry: ExpertRegistry, versions: int) -> Timed:
    pages, after, count = Timed(), "", 0
    while True:
        page = pages.call(partial(registry.page, limit=PAGE, after=after))
        count += len(page.versions)
        after = page.after
        if not after:
            break
    if count != versions:
        raise RuntimeError(f"the pages have {count} versions, not {versions}")
    return pages


def _flat(values: dict[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in values.items():
        flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--imported", type=int, default=200, help="how many of them are imported; the others are rows")
    parser.add_argument("--experts", type=int, default=490, help="of whom the others are; two or more each")
    parser.add_argument("--stores", nargs="+", choices=("postgresql", "sqlite"), default=["postgresql", "sqlite"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.imported < 1 or options.versions - options.imported < 2 * options.experts:
        parser.error("--versions less --imported is less than two for each of --experts")
    return options


if __name__ == "__main__":
    raise SystemExit(main())

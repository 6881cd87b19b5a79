"""Does anybody wait for the large bodies of others?

    python benchmarks/large_bodies.py                      a table, some two minutes on two cores
    python benchmarks/large_bodies.py --json > result.json

`zfleet serve` answers 32 clients, each streaming one answer after the other. In every other round a process beside them
sends bodies of 1 to 100 MB as fast as they are refused. What counts is how long first tokens take with and without it,
and how much memory the processes of the service that see the bodies take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import httpx
import numpy as np
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from exit_code import exit_code
from service.running import serving
from zfleet.errors import ServeError

BAR = 2.0
MEGABYTE = 1_000_000

_SEEN_BY = {"gateway": "gateway"}
"""{process: what its name has in it}."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = read_options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), base__model=options.base, base__name="lab") as (url, service),
    ):
        found = measure(url, service, options)
    if options.json:
        print(json.dumps({"settings": vars(options), **found}, indent=2))
        return
    table = Table("seconds to the first token", "alone", "beside large bodies", "ratio")
    for name, value in found["ratio"].items():
        table.add_row(name, f"{found['alone'][name]:.3f}", f"{found['beside'][name]:.3f}", f"{value:.2f}")
    refused = ", ".join(f"{count} of {size} MB" for size, count in found["refused"].items())
    memory = ", ".join(f"{name} {peak:.0f} MB" for name, peak in found["peak_mb"].items())
    worst = max(found["ratio"].values())
    verdict = "reached" if worst <= BAR else "MISSED"
    Console().print(table, f"refused: {refused}", f"most memory: {memory}", f"asked for is {BAR}: {verdict}", sep="\n")


def measure(url: str, service: psutil.Process, options: argparse.Namespace) -> dict[str, Any]:
    """First tokens alone and beside a flood of bodies; rounds take turns.

    Raises:
        ServeError: A body was not refused, or a client got no answer.
    """
    waits: dict[str, list[float]] = {"alone": [], "beside": []}
    refused: Counter[int] = Counter()
    watch = Watch(service)
    asyncio.run(_clients(url, options.clients, options.seconds / 2))
    for number in track(range(2 * options.rounds), "rounds", console=Console(stderr=True)):
        if number % 2:
            with _flood(url, options.sizes, refused):
                waits["beside"] += asyncio.run(_clients(url, options.clients, options.seconds))
        else:
            waits["alone"] += asyncio.run(_clients(url, options.clients, options.seconds))
    found: dict[str, Any] = {name: _quantiles(values) for name, values in waits.items()}
    ratio = {name: found["beside"][name] / value for name, value in found["alone"].items()}
    return found | {"ratio": ratio, "refused": dict(sorted(refused.items())), "peak_mb": watch.stop()}


def _quantiles(waits: list[float]) -> dict[str, float]:
    return {"median": float(np.quantile(waits, 0.5)), "99 of 100": float(np.quantile(waits, 0.99)), "all": max(waits)}


async def _clients(url: str, clients: int, seconds: float) -> list[float]:
    """Seconds to each first token that so many clients waited for."""
    until = time.monotonic() + seconds
    waits: list[float] = []

    async def client(http: httpx.AsyncClient, number: int) -> None:
        body = {"model": "lab", "prompt": f"flip abc{number}", "max_tokens": 32, "temperature": 1, "stream": True}
        while time.monotonic() < until:
            began = time.perf_counter()
            async with http.stream("POST", f"{url}/v1/completions", json=body) as response:
                if response.status_code != 200:
                    raise ServeError(f"a client got status {response.status_code}", "see the service's logs")
                lines = response.aiter_lines()
                await anext(lines)
                waits.append(time.perf_counter() - began)
                async for _ in lines:
                    pass

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as http:
        await asyncio.gather(*(client(http, number) for number in range(clients)))
    return waits


@contextmanager
def _flood(url: str, sizes: Sequence[int], refused: Counter[int]) -> Iterator[None]:
    """Bodies from a process of their own, one after the other, until the block is left."""
    context = multiprocessing.get_context("spawn")
    begun, stop, results = context.Event(), context.Event(), context.Queue()
    sender = context.Process(target=_send, args=(url, tuple(sizes), begun, stop, results))
    sender.start()
    try:
        if not begun.wait(60):
            raise ServeError("the process that sends large bodies did not start", "give the machine less other work")
        yield
    finally:
        stop.set()
        sender.join()
    while True:
        try:
            size, status = results.get(timeout=1)
        except Empty:
            break
        if status != 413:
            raise ServeError(f"a body of {size} MB got status {status}", "bodies of a megabyte and more are refused")
        refused[size] += 1


def _send(url: str, sizes: Sequence[int], begun: Any, stop: Any, results: Any) -> None:
    bodies = {size: _body(size * MEGABYTE) for size in sizes}
    begun.set()
    headers = {"content-type": "application/json"}
    while not stop.is_set():
        for size, body in bodies.items():
            answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers=headers, timeout=120)
            results.put((size, answer.status_code))


def _body(size: int) -> bytes:
    chat = {"model": "lab", "messages": [{"role": "user", "content": "x " * (size // 2)}]}
    return json.dumps(chat).encode()


class Watch:
    """Follows the memory of the service's processes that see bodies."""

    def __init__(self, service: psutil.Process) -> None:
        children = service.children(recursive=True)
        named = [(name, child) for name, part in _SEEN_BY.items() for child in children if part in _name(child)]
        self._peaks = dict.fromkeys(_SEEN_BY, 0.0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(named,))
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """{process: the most memory it took, in MB}."""
        self._done.set()
        self._thread.join()
        return self._peaks

    def _follow(self, named: list[tuple[str, psutil.Process]]) -> None:
        while not self._done.wait(0.05):
            for name, process in named:
                self._peaks[name] = max(self._peaks[name], process.memory_info().rss / MEGABYTE)


def _name(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="lab", help="lab, a folder or a hub id")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4, help="of each kind")
    parser.add_argument("--seconds", type=float, default=10, help="of a round")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 5, 10, 100], help="of bodies, in MB")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

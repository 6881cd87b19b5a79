"""What does the way from a client to the engine cost, and do two replicas give nearly twice of one?

    python benchmarks/serving.py                      a table, some twelve minutes on two cores
    python benchmarks/serving.py --json > result.json
    python benchmarks/serving.py --only short ttft    a part of it

Requests go to `zfleet serve` over HTTP, and the same ones to an engine in this process, in turns; each engine computes
on one thread. `short` is 64 streams and answers of 4 tokens on the lab base, `long` answers of 128 on a random base of
SmolLM2's size; `ttft` is one stream; `replicas` compares services of one and of two replicas: with 128 streams, which
keep all slots of both busy, and with 64, which two replicas share, so that each step of theirs has half the rows and
more seconds a token. Ratios are of neighbours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import aiohttp
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from exit_code import exit_code
from hetero.base import base_spec, build_base, find_shape
from hetero.statistics import Estimate, estimate
from service.client import Answer, Ask, first_tokens, load, of_engine, of_service
from service.running import serving
from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.engine.open import open_engine
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.tasks.template import chat_tokens

STREAMS = 64
SHORT, LONG = 4, 128
BARS = {"service_over_engine.short": 0.15, "service_over_engine.long": 0.9, "replicas2_over_1": 1.6}
LEAST_BARS = {"ttft_overhead_ms": 8.0}
PARTS = ("short", "long", "ttft", "replicas")

_PROMPT_TOKENS = 16
_LETTERS = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0, or 1 where it cannot run."""
    options = _options(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    found: dict[str, Estimate] = {}
    lab, larger = BaseSpec(), _larger()
    with Progress(console=Console(stderr=True)) as progress:
        parts = {part: progress.add_task(part, total=options.rounds) for part in PARTS if part in options.only}
        if {"short", "ttft"} & parts.keys():
            found |= asyncio.run(_compare(lab, SHORT, options, progress, parts))
        if "long" in parts:
            found |= asyncio.run(_compare(larger, LONG, options, progress, {"long": parts["long"]}))
        if "replicas" in parts:
            found |= _replicas(larger, options, progress, parts["replicas"])
    if options.json:
        values = {name: vars(value) for name, value in found.items()}
        print(json.dumps({"settings": vars(options), **values}, indent=2))
        return
    table = Table("figure", "median", "95% interval", "asked for", "", title=f"{STREAMS} streams")
    for name, value in found.items():
        table.add_row(name, f"{value.median:.3g}", f"{value.low:.3g} to {value.high:.3g}", *_verdict(name, value))
    Console().print(table)


def _verdict(name: str, value: Estimate) -> tuple[str, str]:
    if name in BARS:
        return f"{BARS[name]} or more", "reached" if value.high >= BARS[name] else "MISSED"
    if name in LEAST_BARS:
        return f"under {LEAST_BARS[name]:g}", "reached" if value.low < LEAST_BARS[name] else "MISSED"
    return "", ""


async def _compare(
    base: BaseSpec, tokens: int, options: argparse.Namespace, progress: Progress, parts: dict[str, Any]
) -> dict[str, Estimate]:
    """The service beside the engine: rates at many streams, and the first token at one."""
    bundle = pack_base(base)
    spec = EngineSpec(slots=STREAMS, max_length=_PROMPT_TOKENS + LONG)
    lab = tokens == SHORT
    asks = Asks(bundle, options.requests if lab else STREAMS, lab)
    found: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        url = stack.enter_context(_service(base, bundle, stack.enter_context(tempfile.TemporaryDirectory())))
        engine = await open_engine(bundle, spec)
        stack.push_async_callback(engine.close)
        session = await stack.enter_async_context(_session())
        alone, service = of_engine(engine), of_service(session, url, bundle.name)
        for answer in (alone, service):
            await load(answer, asks.next(min(tokens, 8))[:STREAMS], STREAMS)
        for number in range(options.rounds):
            order = [("engine", alone), ("service", service)]
            if number % 2:
                order.reverse()
            if "ttft" in parts:
                await _first(order, asks, found)
                progress.advance(parts["ttft"])
            if "ttft" not in parts or len(parts) > 1:
                await _rates(order, asks, tokens, found)
                progress.advance(parts["short" if tokens == SHORT else "long"])
    return {name: estimate(values) for name, values in found.items()}


async def _rates(order: list[tuple[str, Answer]], asks: Asks, tokens: int, found: dict[str, list[float]]) -> None:
    size = "short" if tokens == SHORT else "long"
    batch = asks.next(tokens)
    rates = {name: await load(answer, batch, STREAMS) for name, answer in order}
    for name, rate in rates.items():
        found.setdefault(f"{name}.{size} requests/s", []).append(rate.requests)
        found.setdefault(f"{name}.{size} tokens/s", []).append(rate.tokens)
    ratio = rates["service"].tokens / rates["engine"].tokens
    found.setdefault(f"service_over_engine.{size}", []).append(ratio)


async def _first(order: list[tuple[str, Answer]], asks: Asks, found: dict[str, list[float]]) -> None:
    batch = asks.next(SHORT)[:50]
    waits = {name: await first_tokens(answer, batch) for name, answer in order}
    medians = {name: 1000 * estimate(values).median for name, values in waits.items()}
    for name, median in medians.items():
        found.setdefault(f"{name}.ttft ms", []).append(median)
    found.setdefault("ttft_overhead_ms", []).append(medians["service"] - medians["engine"])


def _replicas(base: BaseSpec, options: argparse.Namespace, progress: Progress, part: Any) -> dict[str, Estimate]:
    """Tokens a second of services with one replica and with two, in turns."""
    bundle = pack_base(base)
    asks = Asks(bundle, 2 * STREAMS, lab=False)
    found: dict[str, list[float]] = {}
    for number in range(options.rounds):
        batch = asks.next(LONG)
        rates: dict[int, dict[int, float]] = {}
        for replicas in (1, 2) if number % 2 else (2, 1):
            with tempfile.TemporaryDirectory() as folder, _service(base, bundle, folder, replicas=replicas) as url:
                rates[replicas] = asyncio.run(_rates_over_http(url, bundle.name, asks.next(8), batch))
        for streams, name in ((2 * STREAMS, ""), (STREAMS, f".{STREAMS}_streams")):
            for replicas, rate in rates.items():
                found.setdefault(f"replicas{replicas}{name} tokens/s", []).append(rate[streams])
            found.setdefault(f"replicas2_over_1{name}", []).append(rates[2][streams] / rates[1][streams])
        progress.advance(part)
    return {name: estimate(values) for name, values in found.items()}


async def _rates_over_http(url: str, model: str, first: Sequence[Ask], batch: Sequence[Ask]) -> dict[int, float]:
    """Tokens a second with twice as many streams as a replica has slots, and with as many."""
    async with _session() as session:
        answer = of_service(session, url, model)
        await load(answer, first, len(first))
        return {streams: (await load(answer, batch, streams)).tokens for streams in (2 * STREAMS, STREAMS)}


class Asks:
    """Requests that nobody has made before.

    Args:
        bundle: The base.
        count: How many at once.
        lab: Words to reverse, which the lab base answers letter by letter; else random tokens, for a random base.
    """

    def __init__(self, bundle: BaseBundle, count: int, lab: bool) -> None:
        self._tokenizer = bundle.tokenizer()
        self._count = count
        self._chance = random.Random(0)
        self._lab = lab

    def next(self, tokens: int) -> list[Ask]:
        """The next requests, for answers of so many tokens."""
        return [Ask(self._prompt(), tokens, self._chance.randrange(2**31)) for _ in range(self._count)]

    def _prompt(self) -> tuple[int, ...]:
        if self._lab:
            word = "".join(self._chance.choices(ascii_lowercase, k=_LETTERS))
            return chat_tokens(self._tokenizer, [{"role": "user", "content": f"reverse {word}"}])
        return tuple(self._chance.choices(range(4, len(self._tokenizer)), k=_PROMPT_TOKENS))


def _service(base: BaseSpec, bundle: BaseBundle, folder: str, **settings: object) -> Any:
    stack = ExitStack()
    described = {f"base__{key}": value for key, value in base.model_dump().items() if value is not None}
    # The engine beside it is a TorchEngine, whatever this machine has.
    engine = {"engine__kind": "torch", "engine__slots": STREAMS, "engine__max_length": _PROMPT_TOKENS + LONG}
    url, _ = stack.enter_context(serving(Path(folder), **described, **engine, **settings))
    return _Entered(stack, url)


class _Entered:
    """A service that runs; leaving the block ends it."""

    def __init__(self, stack: ExitStack, url: str) -> None:
        self._stack = stack
        self._url = url

    def __enter__(self) -> str:
        return self._url

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), read_bufsize=2**20
    )


def _larger() -> BaseSpec:
    shape = find_shape("smollm2")
    return base_spec(shape, build_base(shape), "all")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=600, help="of a round of `short`")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--json", action="store_true", help="the result on standard output, and nothing else there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

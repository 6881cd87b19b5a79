"""What is said of a measurement: JSON for programs, tables for people."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import psutil
import torch
import transformers
import vllm
from rich.console import Console, Group, RenderableType
from rich.table import Table

from hetero.configurations import CONFIGURATIONS, RATIOS
from hetero.measure import Measurement
from hetero.profile import BETWEEN
from hetero.settings import BATCH_TOKENS, CACHE_GIB, Settings
from hetero.statistics import CONFIDENCE, estimate, quantile
from zfleet.engine.vllm_engine.environment import openmp_in_use

Report = dict[str, Any]

_MS = 1000
_OPERATORS = 12
"""How many of a profile are shown; the JSON has all."""


def report(settings: Settings, measured: Measurement, *, rounds: int, threads: int) -> Report:
    """Everything as plain data.

    ``ratios`` has {median, ci95, coverage, pairs, bar, met} by name; ``met`` says whether the interval reaches the
    bar, and is null where there is none. ``configurations`` has the rate with its interval (output tokens a second),
    the times of one streamed sample (milliseconds: median and 95th percentile) and the memory of the engine's
    processes (MiB, PSS). ``coverage`` is what the ratios' intervals hold the median with: 0.95 or more, unless there
    were fewer than 6 rounds. ``profiles`` has what ``Profile`` says, for each configuration that was profiled.
    """
    load, shape = settings.load, settings.shape
    ratios = {name: _ratio(name, samples) for name, samples in _in_order(RATIOS, measured.ratios)}
    return {
        "ratios": ratios,
        "coverage": min(row["coverage"] for row in ratios.values()),
        "configurations": {
            key: _configuration(key, rates, measured) for key, rates in _in_order(CONFIGURATIONS, measured.rates)
        },
        "profiles": {key: asdict(found) for key, found in measured.profiles.items()},
        "rounds": rounds,
        "interval": "median, exact interval from order statistics (Thompson 1936)",
        "load": {
            "concurrency": load.concurrency,
            "requests": settings.requests,
            "prompt_tokens": load.prompt_tokens,
            "answer_tokens": load.answer_tokens,
        },
        "base": {
            "parameters": shape.parameters,
            "hidden": shape.hidden,
            "intermediate": shape.intermediate,
            "layers": shape.layers,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "vocabulary": shape.vocabulary,
            "dtype": shape.dtype,
            "device": shape.device,
        },
        "engine": {
            "batch_tokens": BATCH_TOKENS,
            "cache_gib": CACHE_GIB,
            "threads": threads,
            "eager": True,
            "openmp": openmp_in_use(),
        },
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": psutil.cpu_count(),
            "gpu": torch.cuda.get_device_name() if shape.device == "cuda" else None,
        },
        "versions": {module.__name__: str(module.__version__) for module in (torch, transformers, vllm)},
    }


def _in_order(order: Mapping[str, object], values: Mapping[str, list[float]]) -> list[tuple[str, list[float]]]:
    return [(name, values[name]) for name in order if name in values]


def _ratio(name: str, samples: list[float]) -> Report:
    found, bar = estimate(samples), RATIOS[name].bar
    return {
        "median": found.median,
        "ci95": [found.low, found.high],
        "coverage": found.coverage,
        "pairs": found.samples,
        "bar": bar,
        "met": None if bar is None else found.reaches(bar),
    }


def _configuration(key: str, rates: list[float], measured: Measurement) -> Report:
    configuration, found = CONFIGURATIONS[key], estimate(rates)
    row: Report = {
        "label": configuration.label,
        "experts": configuration.experts,
        "tokens_per_second": {"median": found.median, "ci95": [found.low, found.high], "samples": found.samples},
        "first_token_ms": None,
        "between_tokens_ms": None,
        "memory_mib": measured.memory[configuration.side],
    }
    streamed = measured.streamed.get(key)
    if streamed is not None:
        row["first_token_ms"] = _times(streamed.first)
        row["between_tokens_ms"] = _times(streamed.between)
    return row


def _times(seconds: tuple[float, ...]) -> Report:
    return {"median": statistics.median(seconds) * _MS, "p95": quantile(seconds, 0.95) * _MS}


def show(console: Console, shown: Report) -> None:
    """Print the tables."""
    console.print(Group(_configurations(shown), _ratios(shown)))
    if shown.get("agreement"):
        each = ", ".join(f"{CONFIGURATIONS[key].label}: {share:.1%}" for key, share in shown["agreement"].items())
        console.print(f"greedy tokens that the merged model chooses as well: {each}")
    if shown["profiles"]:
        console.print(_profiles(shown))
        for key, found in shown["profiles"].items():
            console.print(_operators(key, found))


def _configurations(shown: Report) -> RenderableType:
    load, base = shown["load"], shown["base"]
    table = Table(
        title=f"{base['parameters'] / 1e6:.0f}M parameters, {base['dtype']}, {load['concurrency']} requests at once, "
        f"{load['prompt_tokens']} + {load['answer_tokens']} tokens"
    )
    table.add_column("configuration", no_wrap=True)
    for heading in ("tokens/s", _interval(shown), "first token ms", "p95", "next token ms", "p95", "memory MiB"):
        table.add_column(heading, justify="right")
    for row in shown["configurations"].values():
        rate = row["tokens_per_second"]
        times = [row["first_token_ms"], row["between_tokens_ms"]]
        cells = [
            cell for time in times for cell in ((f"{time['median']:.0f}", f"{time['p95']:.0f}") if time else ("", ""))
        ]
        interval = f"{rate['ci95'][0]:.0f}–{rate['ci95'][1]:.0f}"
        table.add_row(row["label"], f"{rate['median']:.0f}", interval, *cells, f"{row['memory_mib']:.0f}")
    return table


def _ratios(shown: Report) -> RenderableType:
    table = Table(title=f"ratios of tokens/s, paired within {shown['rounds']} rounds", caption=_caption(shown))
    table.add_column("ratio", no_wrap=True)
    for heading in ("median", _interval(shown), "bar"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for name, row in shown["ratios"].items():
        low, high = row["ci95"]
        bar = "" if row["bar"] is None else f"{row['bar']:.2f}"
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row["met"]]
        table.add_row(name, f"{row['median']:.3f}", f"{low:.3f}–{high:.3f}", bar, verdict)
    return table


def _caption(shown: Report) -> str:
    said = "a line is met when the interval reaches the bar"
    return said if shown["coverage"] >= CONFIDENCE else f"{said}; for 95 % it takes 6 rounds or more"


def _interval(shown: Report) -> str:
    """What the intervals are called: they hold the median with this probability."""
    return f"{shown['coverage']:.0%}"


def _profiles(shown: Report) -> RenderableType:
    profiles = shown["profiles"]
    table = Table(title="a decoding step by what it is spent on, milliseconds", caption="the profiler slows operators")
    table.add_column("part")
    for key in profiles:
        table.add_column(CONFIGURATIONS[key].label, justify="right")
    for part in next(iter(profiles.values()))["parts"]:
        table.add_row(
            part, *(f"{found['parts'][part]:.2f}" for found in profiles.values()), end_section=part == BETWEEN
        )
    table.add_row("together", *(f"{found['step_ms']:.2f}" for found in profiles.values()))
    table.add_row("without the profiler", *(f"{found['plain_ms']:.2f}" for found in profiles.values()))
    return table


def _operators(key: str, found: Report) -> RenderableType:
    table = Table(title=f"slowest operators: {CONFIGURATIONS[key].label}")
    table.add_column("operator, shapes of its inputs")
    table.add_column("ms a step", justify="right")
    for operator, milliseconds in list(found["operators"].items())[:_OPERATORS]:
        table.add_row(operator, f"{milliseconds:.2f}")
    return table

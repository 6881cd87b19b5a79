"""Running it all: engines opened once, rounds in which every configuration has its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from hetero.client import Sample, Server, Side
from hetero.configurations import CONFIGURATIONS, RATIOS, openers, round_order
from hetero.processes import memory_mib
from hetero.profile import Profile, profile
from hetero.settings import Settings
from hetero.statistics import nearest_pair

_REST_SECONDS = 1.5
"""vLLM's workers look for work in a tight loop for a second after their last step, and would slow the next engine."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Measurement:
    """What a run measured.

    Attributes:
        rates: Output tokens a second of each sample, by configuration.
        ratios: One a round, by name.
        streamed: One streamed sample of each configuration that can stream.
        memory: MiB of each engine's processes after warming up (PSS).
        profiles: A step's time by operator, where asked for.
    """

    rates: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    streamed: dict[str, Sample] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)


async def measure(
    settings: Settings, keys: Sequence[str], rounds: int, profiled: Sequence[str], tell: Tell
) -> Measurement:
    """Open all engines, warm each configuration up, and run the rounds.

    Args:
        settings: Of the run.
        keys: Configurations.
        rounds: Samples of each configuration, at least.
        profiled: Those of the configurations that are profiled, before the rounds.
        tell: Told what happens next; ``steps`` times at most.
    """
    result = Measurement()
    async with AsyncExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, opener in openers(keys).items():
            tell(f"starting {name}")
            sides[name] = await opener(settings)
            stack.push_async_callback(sides[name].close)
        runner = _Runner(settings, sides)
        for place, key in enumerate(keys):
            tell(f"warming up: {CONFIGURATIONS[key].label}")
            await runner.sample(key, "warm-up", place)
        result.memory.update({name: memory_mib(side.processes) for name, side in sides.items()})
        # Before the rounds: a profile that fails must not cost what took so long to measure.
        for key in profiled:
            tell(f"profiling: {CONFIGURATIONS[key].label}")
            side = sides[CONFIGURATIONS[key].side]
            if isinstance(side, Server):
                result.profiles[key] = await profile(side, key, settings)
        for number in range(rounds):
            order = round_order(number, keys)
            rates = []
            for place, key in enumerate(order):
                tell(f"round {number + 1}: {CONFIGURATIONS[key].label}")
                sample = await runner.sample(key, f"round {number}", place)
                rates.append(sample.rate)
                result.rates.setdefault(key, []).append(sample.rate)
            _pair(result.ratios, order, rates)
        for place, key in enumerate(keys):
            if sides[CONFIGURATIONS[key].side].streams:
                tell(f"streaming: {CONFIGURATIONS[key].label}")
                result.streamed[key] = await runner.sample(key, "stream", place, stream=True)
    return result


def steps(keys: Sequence[str], rounds: int, profiled: Sequence[str]) -> int:
    """How often ``measure`` tells something, at most."""
    return len(openers(keys)) + 2 * len(keys) + rounds * len(round_order(0, keys)) + len(profiled)


class _Runner:
    """Runs samples one after the other, with a rest where the engine changes."""

    def __init__(self, settings: Settings, sides: Mapping[str, Side]) -> None:
        self._settings = settings
        self._sides = sides
        self._last = ""

    async def sample(self, key: str, seed: str, place: int, stream: bool = False) -> Sample:
        """One sample of a configuration."""
        configuration = CONFIGURATIONS[key]
        if configuration.side != self._last:
            await asyncio.sleep(_REST_SECONDS)
            self._last = configuration.side
        asks = configuration.asks(self._settings, seed, place)
        return await self._sides[configuration.side].sample(asks, self._settings.load, stream)


def _pair(ratios: dict[str, list[float]], order: Sequence[str], rates: Sequence[float]) -> None:
    """Divide the samples of one round."""
    for name, ratio in RATIOS.items():
        pair = nearest_pair(order, ratio.above, ratio.below)
        if pair is not None:
            ratios.setdefault(name, []).append(rates[pair[0]] / rates[pair[1]])

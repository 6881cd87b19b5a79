"""What is measured: engines, the requests sent to each, the ratios that are asked for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from hetero.client import FIRST_WORD, Ask, Side
from hetero.settings import DELTA_ERROR, DELTA_RANK, Settings
from zfleet.config.specs import DeltaSpec
from zfleet.errors import SpecError

MANY = 1000
"""Experts of the large fleet."""

Opener = Callable[[Settings], Awaitable[Side]]


@dataclass(frozen=True)
class Configuration:
    """One way to ask one engine.

    Attributes:
        label: For people.
        side: The engine, a key of the sides.
        experts: How many answer; 0 is the base.
        drawn: Experts are drawn at random, else they take turns.
        share: Of a sample's requests; a slow configuration gets fewer, at the same concurrency.
    """

    label: str
    side: str
    experts: int
    drawn: bool = False
    share: float = 1.0

    def asks(self, settings: Settings, seed: str, place: int) -> list[Ask]:
        """The requests of one sample.

        All samples of a seed ask the same prompts but for the first token, which ``place`` chooses: no prefix
        cache knows any of them.
        """
        load = settings.load
        count = max(round(settings.requests * self.share), load.concurrency)
        chance = random.Random(f"{seed}/{place}")
        prompts = load.prompts(count, seed)
        return [
            Ask((FIRST_WORD + place, *prompt[1:]), self._expert(number, chance))
            for number, prompt in enumerate(prompts)
        ]

    def _expert(self, number: int, chance: random.Random) -> int | None:
        if not self.experts:
            return None
        return chance.randrange(self.experts) if self.drawn else number % self.experts


CONFIGURATIONS: Mapping[str, Configuration] = {
    "base": Configuration("plain vLLM, base", "plain", 0),
    "base_on": Configuration("SVF on, base requests only", "exact", 0),
    "exact1": Configuration("SVF exact, all linears, 1 expert", "exact", 1),
    "exact8": Configuration("SVF exact, all linears, 8 experts", "exact", 8),
    "exact64": Configuration("SVF exact, all linears, 64 experts", "exact", 64),
    "n5": Configuration("SVF exact, 5 of 1,000, 64 rows", "exact", 5, drawn=True),
    "n1000": Configuration("SVF exact, all 1,000, 64 rows", "exact", MANY, drawn=True),
    "n1000_held": Configuration("SVF exact, all 1,000, 1,000 rows", "exact_held", MANY, drawn=True),
    "mlp64": Configuration("SVF exact, MLPs, 64 experts", "mlp", 64),
    "rank64": Configuration("SVF rank 64, all linears, 64 experts", "rank64", 64),
    "error64": Configuration("SVF within 1e-3, all linears, 64 experts", "error", 64),
    "lora1": Configuration("vLLM LoRA rank 16, 1 adapter", "lora1", 1, share=0.5),
    "lora8": Configuration("vLLM LoRA rank 16, 8 adapters", "lora8", 8, share=0.5),
    "lora64": Configuration("vLLM LoRA rank 16, 64 adapters", "lora64", 64, share=0.5),
    "compiled": Configuration("plain vLLM, torch.compile", "compiled", 0),
    "peft64": Configuration("PEFT LoRA rank 16, mixed, 64 adapters", "peft", 64, share=0.5),
    "merge64": Configuration("merged at each switch, 64 experts", "merge", 64, share=0.5),
}

ROUND = (
    ("n5", "n1000", "n1000_held"),
    ("exact8", "exact1", "exact64", "base", "rank64", "error64", "lora64", "lora8", "lora1"),
    ("base_on", "base", "mlp64"),
    ("base", "compiled"),
    ("peft64", "merge64"),
)
"""Neighbours run next to each other: the two sides of a ratio should see the same machine."""


@dataclass(frozen=True)
class Ratio:
    """Two configurations, and the bar that their ratio is held against, if any."""

    above: str
    below: str
    bar: float | None


RATIOS: Mapping[str, Ratio] = {
    "exact64_over_exact1": Ratio("exact64", "exact1", 0.97),
    "n1000_over_n5": Ratio("n1000", "n5", 0.97),
    "base_on_over_off": Ratio("base_on", "base", 0.98),
    "exact_all_over_base": Ratio("exact64", "base", 0.60),
    "exact_mlp_over_base": Ratio("mlp64", "base", 0.70),
    "rank64_over_base": Ratio("rank64", "base", 0.85),
    "exact64_over_lora64": Ratio("exact64", "lora64", 2.5),
    "rank64_over_lora64": Ratio("rank64", "lora64", 3.5),
    "error64_over_exact64": Ratio("error64", "exact64", 1.0),
    "error64_over_base": Ratio("error64", "base", None),
    "error64_over_lora64": Ratio("error64", "lora64", None),
    "exact1_over_base": Ratio("exact1", "base", None),
    "exact8_over_base": Ratio("exact8", "base", None),
    "n1000_held_over_n1000": Ratio("n1000_held", "n1000", None),
    "lora1_over_base": Ratio("lora1", "base", None),
    "lora8_over_base": Ratio("lora8", "base", None),
    "lora64_over_base": Ratio("lora64", "base", None),
    "compiled_over_base": Ratio("compiled", "base", None),
    "exact64_over_peft64": Ratio("exact64", "peft64", None),
    "exact64_over_merge64": Ratio("exact64", "merge64", None),
}
"""The first nine are asked for; the rest is context."""

ALSO = {"compiled": ("compiled",), "peft": ("peft64",), "merge": ("merge64",)}
"""What ``--also`` adds."""


def chosen(also: Sequence[str], only: Sequence[str] = ()) -> tuple[str, ...]:
    """The configurations of a run, in the order of the report.

    Args:
        also: What is added, of ``ALSO``.
        only: Configurations, whatever ``also`` has; none for all.

    Raises:
        SpecError: Either of them names something else, or ``only`` has no two that are compared.
    """
    if unknown := [name for name in also if name not in ALSO]:
        raise SpecError(f"--also {unknown[0]!r} is unknown", f"choose from {', '.join(ALSO)}")
    if unknown := [key for key in only if key not in CONFIGURATIONS]:
        raise SpecError(f"--only {unknown[0]!r} is unknown", f"choose from {', '.join(CONFIGURATIONS)}")
    if only:
        if not any(ratio.above in only and ratio.below in only for ratio in RATIOS.values()):
            raise SpecError("--only has no two that are compared", "add base")
        return tuple(key for key in CONFIGURATIONS if key in only)
    optional = {key for keys in ALSO.values() for key in keys}
    wanted = {key for name in also for key in ALSO[name]}
    return tuple(key for key in CONFIGURATIONS if key not in optional or key in wanted)


def round_order(number: int, keys: Sequence[str]) -> tuple[str, ...]:
    """The order of one round: groups rotate, and every other round runs backwards."""
    groups = [[key for key in group if key in keys] for group in ROUND]
    # A group that has lost everything but the base has nothing to compare it with.
    groups = [group for group in groups if group and group != ["base"]]
    turn = number % len(groups)
    order = tuple(key for group in groups[turn:] + groups[:turn] for key in group)
    return order[::-1] if number % 2 else order


def openers(keys: Sequence[str]) -> dict[str, Opener]:
    """How to open each engine that the configurations need."""
    from hetero.also import open_merge, open_peft
    from hetero.fleet import open_fleet
    from hetero.plain import open_lora, open_plain

    known: dict[str, Opener] = {
        "plain": open_plain,
        "exact": lambda settings: open_fleet(settings, targets="all", experts=MANY, rows=64),
        "exact_held": lambda settings: open_fleet(settings, targets="all", experts=MANY, rows=MANY),
        "mlp": lambda settings: open_fleet(settings, targets="mlp", experts=64, rows=64),
        "rank64": lambda settings: open_fleet(
            settings, targets="all", experts=64, rows=64, delta=DeltaSpec(rank=DELTA_RANK)
        ),
        "error": lambda settings: open_fleet(
            settings, targets="all", experts=64, rows=64, delta=DeltaSpec(error=DELTA_ERROR)
        ),
        "lora1": lambda settings: open_lora(settings, 1),
        "lora8": lambda settings: open_lora(settings, 8),
        "lora64": lambda settings: open_lora(settings, 64),
        "compiled": lambda settings: open_plain(settings, eager=False),
        "peft": open_peft,
        "merge": open_merge,
    }
    needed = dict.fromkeys(CONFIGURATIONS[key].side for key in keys)
    return {side: known[side] for side in needed}

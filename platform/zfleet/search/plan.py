"""How much a search tries, what it asks for, and what it found."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from zfleet.errors import SpecError
from zfleet.search.method import Score
from zfleet.search.objective import Measured
from zfleet.search.space import Points

Stage = Literal["prior", "known", "population", "final", "test"]


@dataclass(frozen=True)
class Plan:
    """How much a search tries.

    Attributes:
        shots: Samples that candidates are searched on.
        selection: Samples that only finalists answer, and by which the winner is chosen; 0 lets the shots choose.
        test: Samples that the winner, the base and the best single expert are reported on.
        generations: How many populations.
        block: Shots before the first comparison of racing; None for no racing.
        level: Of racing's test.
        finalists: The most candidates of the finals, beside the method's centre, the base and the best single expert;
            with racing so many reach the last shot in any case, and are tried again in the next generation.
        keep: The most experts that screening leaves; None for no screening.
    """

    shots: int
    selection: int = 0
    test: int = 0
    generations: int = 8
    block: int | None = None
    level: float = 0.1
    finalists: int = 4
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.shots < 1 or self.generations < 1:
            raise SpecError(
                f"a search has {self.shots} shots and {self.generations} generations", "give at least one of each"
            )
        if self.block is not None and not 1 <= self.block <= self.shots:
            raise SpecError(f"racing has blocks of {self.block} of {self.shots} shots", f"give from 1 to {self.shots}")

    def blocks(self, generation: int) -> list[tuple[int, ...]]:
        """Return the shots in the order of a generation, cut where a race compares.

        It compares after ``block`` shots, twice as many, four times as many.
        As half of the candidates go on each time, every comparison costs about as much (successive halving, Jamieson
        and Talwalkar, AISTATS 2016). Each generation begins with other shots, so that none decides more often.
        """
        size = self.block or self.shots
        first = generation * size % self.shots
        shots = (*range(first, self.shots), *range(first))
        ends = [0]
        while ends[-1] < self.shots:
            ends.append(min(max(size, 2 * ends[-1]), self.shots))
        return [shots[start:end] for start, end in pairwise(ends)]


@dataclass(frozen=True, eq=False)
class Round:
    """What to try next.

    Attributes:
        stage: What it is for. A `prior` asks what a dispatcher decides on the samples: of each sample [dim] alphas. All
            others ask for answers: of each sample [metrics].
        generation: Of a population, counted from 0; 0 before, the last one after.
        points: [n, dim]: the alphas to try.
        samples: Of each point the samples that it answers.
    """

    stage: Stage
    generation: int
    points: Points
    samples: tuple[tuple[int, ...], ...]

    @property
    def digest(self) -> str:
        """sha256 over the points and samples."""
        return hashlib.sha256(self.points.tobytes() + repr(self.samples).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Tried:
    """A candidate that was scored on shots.

    Attributes:
        generation: In which it was tried first; -1 for known points.
        point: [dim].
        score: On the shots that it answered.
        shots: How many those are: fewer than all if it dropped out of a race.
    """

    generation: int
    point: Points
    score: Score
    shots: int


@dataclass(frozen=True)
class Generation:
    """The scores of one population: their first entries.

    Attributes:
        best: The highest of a candidate that answered every shot.
        mean: Over the population, on the shots that each answered.
        evaluations: Answers to shots so far.
    """

    best: float
    mean: float
    evaluations: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a search found.

    Attributes:
        winner: [dim].
        shots: {"winner", "base", or an expert's name: score on the shots}.
        selection: Scores of "winner", "base" and "best_single" on the samples of the selection; empty without it. The
            winner's is what it is expected to score on others (``finals.expect``).
        test: What each answered on the samples of the test: [test, metrics] of "winner", "base", "best_single".
        best_single: The expert that is best alone on the shots.
        searched_best: The highest first entry of any score on the shots: an optimistic number.
    """

    winner: Points
    shots: dict[str, Score]
    selection: dict[str, Score]
    test: dict[str, Measured]
    best_single: str
    searched_best: float

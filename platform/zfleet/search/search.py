"""One search from its start to its report: known points, generations, finals on fresh shots, a test.

It runs nothing itself. ``pending`` says which points to try on which samples, and ``tell`` takes what came out; whoever
holds the search runs the engine. The samples are numbered: the shots first, then those for the selection of a finalist,
then those of the test. The three are disjoint, so that neither the selection nor the test reports a maximum that was
searched.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zfleet.errors import CheckpointError, RewardError
from zfleet.search.candidates import Candidates
from zfleet.search.finals import choose, expect
from zfleet.search.method import Method, Score
from zfleet.search.objective import Measured, Objective
from zfleet.search.plan import Generation, Outcome, Plan, Round, Stage, Tried
from zfleet.search.racing import at_most, survivors
from zfleet.search.screening import screen
from zfleet.search.space import Points, Space

Told = Sequence[Measured]
"""Of each point of a round, in order: [samples, metrics]."""
_Steps = Generator[Round, Told, Outcome]


class Search:
    """One search. Deterministic in its arguments and in what it is told; a copy is told everything again.

    Args:
        space: Of all experts.
        method: Makes the method for a space: that of the experts that screening left.
        objective: What candidates are compared by.
        plan: How much is tried.
        similarity: [experts, experts], the cosines of the experts' z - 1, for screening; None if unknown.
        prior: Whether a dispatcher is asked first what mixtures it proposes for the shots. The method then begins at
            their mean, if it can: ``method`` gets it as ``mean``, [1, dim].

    Attributes:
        pending: What to try next; None at the end.
        outcome: What was found; None before the end.
        history: Of the generations so far.
        evaluations: Answers to shots so far, those of the selection included.
        told: Of each round so far its digest, and what it measured: what ``replay`` takes.
    """

    def __init__(
        self,
        space: Space,
        method: Callable[..., Method],
        objective: Objective,
        plan: Plan,
        similarity: NDArray[np.float64] | None = None,
        prior: bool = False,
    ) -> None:
        self.space, self.objective, self.plan = space, objective, plan
        self._make = method
        self._has_prior = prior
        self._similarity = np.eye(len(space.experts)) if similarity is None else similarity
        self._begin()

    def _begin(self) -> None:
        self.history: tuple[Generation, ...] = ()
        self.evaluations = 0
        self.outcome: Outcome | None = None
        self.told: list[tuple[str, list[Any]]] = []
        self._candidates = Candidates(self.objective, self.plan.shots)
        self._steps: _Steps = self._run()
        self.pending: Round | None = next(self._steps)

    def tell(self, measured: Told) -> None:
        """Take what the pending round measured.

        Args:
            measured: Of each point, in order: [samples, metrics], metrics in the order of ``Objective.metrics``.

        Raises:
            RuntimeError: Nothing is pending.
            ValueError: Another number of points, samples or metrics.
            RewardError: A value is not finite.
        """
        if self.pending is None:
            raise RuntimeError("the search is over: there is nothing to tell")
        arrays = self.checked(measured, self.pending.samples)
        self.told.append((self.pending.digest, [one.tolist() for one in arrays]))
        try:
            self.pending = self._steps.send(arrays)
        except StopIteration as end:
            self.pending, self.outcome = None, end.value

    def checked(self, measured: Sequence[ArrayLike], samples: Sequence[Sequence[int]]) -> list[Measured]:
        """Return what candidates of the pending round measured as arrays; see ``Round.stage``.

        Args:
            measured: Of each candidate [samples, metrics], or of a prior [samples, dim].
            samples: Of each candidate the samples that it was asked.

        Raises:
            RuntimeError: Nothing is pending.
            ValueError: Another number of candidates, samples or metrics.
            RewardError: A value is not finite.
        """
        if self.pending is None:
            raise RuntimeError("the search is over: nothing is measured")
        of_prior = self.pending.stage == "prior"
        width = self.space.dim if of_prior else len(self.objective.metrics)
        arrays = [np.asarray(one, dtype=np.float64) for one in measured]
        shapes = [(len(numbers), width) for numbers in samples]
        if [one.shape for one in arrays] != shapes:
            raise ValueError(f"measured {[one.shape for one in arrays]}, the round asks for {shapes}")
        for one in arrays:
            if not of_prior:
                self.objective.score(one)
            elif not np.isfinite(one).all():
                raise RewardError(f"a dispatcher proposes alphas of {one.tolist()}", "alphas must be finite numbers")
        return arrays

    def replay(self, told: Iterable[tuple[str, list[Any]]]) -> None:
        """Tell a new search what another one like it was told.

        Raises:
            CheckpointError: It does not ask what the other one asked.
        """
        for digest, measured in told:
            if self.pending is None or self.pending.digest != digest:
                raise CheckpointError(
                    f"round {len(self.told)} of the stored search tries other points than this one",
                    "other versions of NumPy or Optuna draw other points: start the search again",
                )
            self.tell(measured)

    def tried(self) -> list[Tried]:
        """List the candidates that were scored on shots, in the order in which they were tried first."""
        return self._candidates.tried()

    def __getstate__(self) -> dict[str, Any]:
        # Generators cannot be copied: a copy starts again and is told the same.
        return {name: self.__dict__[name] for name in _ARGUMENTS} | {"told": self.told}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: state[name] for name in _ARGUMENTS})
        self._begin()
        self.replay(state["told"])

    # The course of a search. Each ``yield`` asks for a round and gets what it measured.

    def _run(self) -> _Steps:
        plan, space = self.plan, self.space
        shots = range(plan.shots)
        base, singles = space.base(), space.singles()
        yield from self._answer("known", -1, np.concatenate([base, singles]), shots)
        alone = self._candidates.scores(singles, shots)
        places = list(range(len(space.experts)))
        if plan.keep is not None:
            places = screen(alone, self._similarity, plan.keep)
        known = singles[places] if space.sum_to_one else np.concatenate([base, singles[places]])
        if self._has_prior:
            proposed = yield from self._proposed(places)
            method = self._make(space.of(places), mean=proposed)
            known = np.concatenate([space.widen(proposed, places), known])
        else:
            method = self._make(space.of(places))
        method.tell(space.narrow(known, places), self._candidates.scores(known, shots))
        incumbents = self._incumbents(places)
        for generation in range(plan.generations):
            asked = method.ask()
            points = space.widen(method.mixtures(asked), places)
            scores, again = yield from self._race(generation, points, incumbents)
            method.tell(np.concatenate([asked, space.narrow(incumbents, places)]), [*scores, *again])
            incumbents = self._incumbents(places)
            best = self._candidates.scores(incumbents[:1], shots)[0][0]
            mean = float(np.mean([score[0] for score in scores]))
            self.history = (*self.history, Generation(best, mean, self.evaluations))
        single = singles[[max(range(len(alone)), key=alone.__getitem__)]]
        rivals = single if space.sum_to_one else np.concatenate([base, single])
        finalists, centre = np.concatenate([incumbents, rivals]), method.centre()
        if centre is not None:
            centre = space.widen(centre, places)
            finalists = centre if method.returns_centre else np.concatenate([incumbents, centre, rivals])
        winner, selection = yield from self._finals(finalists, base, single)
        return (yield from self._report(winner, base, single, selection))

    def _proposed(self, places: Sequence[int]) -> Generator[Round, Told, Points]:
        """Ask what a dispatcher proposes for the shots; return the mean of it for a few experts, which is answered."""
        space, shots = self.space, range(self.plan.shots)
        (mixtures,) = yield Round("prior", 0, space.base(), (tuple(shots),))
        mean = space.of(places).within(space.narrow(mixtures.mean(axis=0)[None], places))
        yield from self._answer("known", -1, space.widen(mean, places), shots)
        return mean

    def _race(
        self, generation: int, points: Points, incumbents: Points
    ) -> Generator[Round, Told, tuple[list[Score], list[Score]]]:
        """Let a population answer the shots, block by block; return its scores, and the incumbents' scores."""
        plan = self.plan
        everyone = np.concatenate([points, incumbents])
        alive = list(range(len(everyone)))
        seen: tuple[int, ...] = ()
        for block in plan.blocks(generation):
            if seen:
                rows = np.stack([self._candidates.rows(everyone[place], seen) for place in alive])
                scores = self._candidates.scores(everyone[alive], seen)
                stay = survivors(self.objective.values(rows), scores, plan.level, plan.finalists)
                alive = [alive[place] for place in stay]
            yield from self._answer("population", generation, everyone[alive], block)
            seen += block
        final = dict(zip(alive, self._candidates.scores(everyone[alive], seen), strict=True))
        finished, targets = list(final.values()), len(self.objective.targets)
        scores = [
            final[place] if place in final else at_most(self._candidates.score_so_far(point), finished, targets)
            for place, point in enumerate(everyone)
        ]
        return scores[: len(points)], scores[len(points) :]

    def _finals(
        self, finalists: Points, base: Points, single: Points
    ) -> Generator[Round, Told, tuple[Points, dict[str, Score]]]:
        """Choose the winner on samples that no candidate saw, or on the shots if there are none: [1, dim]."""
        plan = self.plan
        shots, selection = range(plan.shots), range(plan.shots, plan.shots + plan.selection)
        # The method's centre may be new to the shots.
        yield from self._answer("population", plan.generations - 1, finalists, shots)
        reported = np.concatenate([base, single])
        field = np.unique(finalists, axis=0) if selection else finalists
        yield from self._answer("final", plan.generations - 1, np.concatenate([field, reported]), selection)
        before = self._candidates.scores(field, shots)
        if not selection:
            return field[[max(range(len(field)), key=before.__getitem__)]], {}
        fresh = np.stack([self._candidates.rows(point, selection) for point in field])
        winner = field[[choose(self.objective, fresh, before)]]
        others = self._candidates.scores(reported, selection)
        return winner, dict(zip(REPORTED, [expect(self.objective, fresh, before), *others], strict=True))

    def _report(self, winner: Points, base: Points, single: Points, selection: dict[str, Score]) -> _Steps:
        plan, space = self.plan, self.space
        shots, before = range(plan.shots), plan.shots + plan.selection
        test = range(before, before + plan.test)
        reported = np.concatenate([winner, base, single])
        yield from self._answer("test", plan.generations - 1, reported, test)
        names, points = ("winner", "base", *space.experts), np.concatenate([winner, base, space.singles()])
        whole = [one.score[0] for one in self.tried() if one.shots == plan.shots]
        return Outcome(
            winner=winner[0],
            shots=dict(zip(names, self._candidates.scores(points, shots), strict=True)),
            selection=selection,
            test={
                name: self._candidates.rows(point, test) for name, point in zip(REPORTED, reported, strict=True) if test
            },
            best_single=space.experts[int(np.flatnonzero(single.reshape(len(space.experts), -1).any(axis=1))[0])],
            searched_best=max(whole),
        )

    def _answer(
        self, stage: Stage, generation: int, points: Points, samples: Sequence[int]
    ) -> Generator[Round, Told, None]:
        """Ask for the answers that these points have not given yet."""
        asked, left = self._candidates.missing(points, samples, generation)
        if not left:
            return
        told = yield Round(stage, max(generation, 0), asked, tuple(left))
        self._candidates.take(asked, left, told)
        counted = range(self.plan.shots + self.plan.selection)
        self.evaluations += sum(sample in counted for numbers in left for sample in numbers)

    def _incumbents(self, places: Sequence[int]) -> Points:
        """Return the best candidates so far, of the experts that screening left."""
        size = len(self.space.groups)
        numbers = [place * size + group for place in places for group in range(size)]
        return self._candidates.best(self.plan.finalists, numbers, base_too=not self.space.sum_to_one)


REPORTED = ("winner", "base", "best_single")
"""What a search reports beside each other."""
_ARGUMENTS = ("space", "objective", "plan", "_make", "_similarity", "_has_prior")

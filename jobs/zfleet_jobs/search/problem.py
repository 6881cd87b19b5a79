"""The problem of a search: find the mixture of experts that answers a few shots of a task best."""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from string import Formatter

import numpy as np

from zfleet.errors import JobError, SpecError, WrongBase
from zfleet.rewards.grading import reward_identity
from zfleet.search.plan import Plan
from zfleet.search.search import Search
from zfleet.search.space import Space, Split
from zfleet.svf.layout import kind_of, layer_of
from zfleet.svf.similarity import cosines
from zfleet.svf.zvector import ZVector
from zfleet.tasks.fit import data_digest
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet_jobs.search.prior import Prior
from zfleet_jobs.search.settings import SearchSettings


@dataclass(frozen=True)
class SearchProblem:
    """One search.

    Attributes:
        name: Names the search in progress, results and errors.
        experts: {name: z}, all of the same base and factors.
        task: Its train split is exactly the shots, and its test split what the winner is reported on; see ``drawn``.
        selection: The samples by which the winner is chosen of the finalists.
        prior: The dispatcher whose decisions on the shots the search begins at; None if none.
    """

    name: str
    experts: Mapping[str, ZVector]
    task: Task
    selection: Sequence[Sample] = field(default=())
    prior: Prior | None = None

    def __post_init__(self) -> None:
        if not self.experts or not self.task.train:
            raise SpecError(
                f"search {self.name} has {len(self.experts)} experts and {len(self.task.train)} shots",
                "give at least one of each",
            )
        if len({(z.base, z.factors) for z in self.experts.values()}) > 1:
            raise WrongBase(
                f"the experts of search {self.name} belong to different bases or factors",
                "mix only experts that share one base and its factors",
            )
        _check_disjoint(self.name, self.samples, self.task.template)

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, as ``zfleet.search.search`` numbers them: shots, selection, test."""
        return (*self.task.train, *self.selection, *self.task.test)

    def space(self, settings: SearchSettings) -> Space:
        """Return the space of the search.

        Raises:
            SpecError: Limits that no mixture of these experts keeps.
        """
        matrices = tuple(next(iter(self.experts.values())).values)
        limits = settings.space
        groups = tuple(dict.fromkeys(group_of(limits.alphas, matrix) for matrix in matrices))
        if limits.alphas == "layer":
            # Alphas by layer name every layer, one without target matrices too.
            groups = tuple(str(layer) for layer in range(1 + max(map(layer_of, matrices))))
        return Space(
            tuple(self.experts),
            limits.alphas,
            groups,
            limits.low,
            limits.high,
            limits.sum_to_one,
            limits.max_experts,
        )

    def search(self, settings: SearchSettings) -> Search:
        """Make the search, at its start.

        Raises:
            SpecError: A setting does not fit the experts.
        """
        plan = Plan(
            shots=len(self.task.train),
            selection=len(self.selection),
            test=len(self.task.test),
            generations=settings.generations,
            block=settings.block,
            keep=settings.keep,
        )
        space = self.space(settings)
        # What the method refuses is refused before anything is tried.
        settings.make_method(space if settings.keep is None else space.of(range(settings.keep)))
        similarity = None if settings.keep is None else cosines(list(self.experts.values()))
        return Search(space, settings.make_method, settings.objective, plan, similarity, self.prior is not None)


def group_of(split: Split, matrix: str) -> str:
    """Name the group of a space whose alpha a matrix has."""
    if split == "global":
        return ""
    if split == "layer":
        return str(layer_of(matrix))
    return kind_of(matrix) if split == "kind" else matrix


def shots_of(task: Task, shots: int, seed: int) -> Task:
    """Select ``shots`` training prompts of a task, without a test side.

    Raises:
        JobError: The training split has fewer distinct prompts.
    """
    return replace(drawn(task, shots, 0, seed)[0], test=())


def drawn(task: Task, shots: int, selection: int, seed: int) -> tuple[Task, tuple[Sample, ...]]:
    """Draw distinct training prompts of a task: the shots, and those of the selection.

    Returns:
        The task with the shots as its train split, and the samples of the selection.

    Raises:
        JobError: The training split has fewer distinct prompts.
    """
    # Small families repeat prompts; a shot that came twice would count twice.
    digests = array("Q", (_digest(sample, task.template) for sample in task.train))
    distinct = np.sort(np.unique(np.frombuffer(digests, np.uint64), return_index=True)[1]).tolist() if digests else []
    if len(distinct) < shots + selection:
        raise JobError(
            f"task {task.name} has {len(distinct)} distinct training prompts, {shots} shots"
            f"{f' and {selection} for the selection' if selection else ''} were asked for",
            f"lower `shots`{' or `selection`' if selection else ''}, or give the task more prompts",
        )
    draw = random.Random(seed)
    first = draw.sample(distinct, shots)
    rest = draw.sample(sorted(set(distinct) - set(first)), selection)
    return replace(task, train=tuple(task.train[at] for at in first)), tuple(task.train[at] for at in rest)


def drawn_from_test(task: Task, shots: int, seed: int) -> Task:
    """Draw the shots from the test split, as the paper's code does; the rest of it is what the winner is reported on.

    Raises:
        JobError: The test split has no more distinct prompts than shots.
    """
    shifted, rest = (
        replace(task, train=task.test, test=()),
        len({_digest(sample, task.template) for sample in task.test}) - shots,
    )
    if rest < 1:
        raise JobError(
            f"task {task.name} has {rest + shots} distinct test prompts, and {shots} shots are drawn from them",
            "lower `shots`, or give the task more test prompts",
        )
    chosen, others = drawn(shifted, shots, rest, seed)
    return replace(chosen, test=others)


def _digest(sample: Sample, template: PromptTemplate) -> int:
    """Identify what a sample asks and what it wants: its prompt with the fields that the template shows."""
    shown = {name for _, name, _, _ in Formatter().parse(template.text or "") if name}
    fields = {name: value for name, value in sample.fields.items() if name in shown}
    said = hashlib.sha256(
        json.dumps([sample.prompt, sample.answer, fields, sample.images], sort_keys=True).encode()
    ).digest()
    return int.from_bytes(said[:8], "big")


_SHOWN = 10


def _check_disjoint(name: str, samples: Sequence[Sample], template: PromptTemplate) -> None:
    first: dict[int, Sample] = {}
    again = [(sample, first.setdefault(_digest(sample, template), sample)) for sample in samples]
    rows = [f"{sample.id} is {other.id}" for sample, other in again if sample is not other]
    if rows:
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        raise JobError(
            f"shots, selection and test of search {name} share prompts: {', '.join(rows[:_SHOWN])}{more}",
            "remove the repeated rows from the task, or give its test split other prompts",
        )


def problems_digest(problems: Mapping[str, SearchProblem], settings: SearchSettings, code: str) -> str:
    """Compute sha256 over everything that the outcome depends on: only a run with the same digest may be resumed.

    Resources and engine sizes are left out: they change how fast it goes, not where to.
    """
    state = {
        "code": code,
        "settings": settings.identity(),
        "problems": [
            [
                name,
                [[expert, z.digest] for expert, z in problem.experts.items()],
                data_digest(problem.task),
                [_digest(sample, problem.task.template) for sample in problem.samples],
                [problem.task.name, problem.task.max_tokens, list(problem.task.stop), problem.task.template.text],
                reward_identity(problem.task.reward),
                *([] if problem.prior is None else [problem.prior.dispatcher.digest]),
            ]
            for name, problem in problems.items()
        ],
    }
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()

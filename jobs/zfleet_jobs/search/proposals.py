"""The mixtures that the dispatcher of a search proposes for its shots, as points of the search's space."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from zfleet.adapt.contract import Mixture
from zfleet.engine.blocking import SyncEngine
from zfleet.search.space import Space
from zfleet.svf.mixture import alpha_of
from zfleet_jobs.decisions import decide
from zfleet_jobs.search.problem import SearchProblem, group_of
from zfleet_jobs.search.settings import SearchSettings


def propose(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    problem: SearchProblem,
    settings: SearchSettings,
    samples: Sequence[int],
) -> list[list[float]]:
    """Let the dispatcher of a search decide on samples.

    Args:
        problem: Has a prior.
        samples: The numbers of the samples; see ``SearchProblem.samples``.

    Returns:
        [samples, dim]: the alphas of each decision; zeros where the dispatcher leaves a prompt to the base.

    Raises:
        RequestTooLong, TaskError, EngineError: As ``decide``.
    """
    prior, space = problem.prior, problem.space(settings)
    assert prior is not None
    digests = [engine.put_z(z) for z in prior.asked]
    try:
        decisions = decide(
            engine, tokenizer, prior.dispatcher, problem.task.name, [problem.samples[sample] for sample in samples]
        )
    finally:
        for digest in digests:
            engine.drop_z(digest)
    return [_point(problem, space, decision.mixture) for decision in decisions]


def _point(problem: SearchProblem, space: Space, mixture: Mixture) -> list[float]:
    """Return a mixture as a point: of each expert and group the mean alpha of the group's matrices."""
    assert problem.prior is not None
    # The dispatcher may name the same z by another reference.
    digests = problem.prior.dispatcher.document.experts
    alphas = {digests[name]: alpha for name, alpha in mixture.items()}
    point = []
    for z in problem.experts.values():
        groups: dict[str, list[float]] = defaultdict(list)
        for matrix in z.values:
            groups[group_of(space.split, matrix)].append(alpha_of(alphas.get(z.digest, 0.0), matrix, z))
        point += [sum(groups[group]) / max(len(groups[group]), 1) for group in space.groups]
    return point

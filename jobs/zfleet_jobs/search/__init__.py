"""Searching mixtures of experts with Ray Tune."""

from zfleet_jobs.search.mixtures import FoundMixture, SearchTrial, ShotScore, search_mixtures
from zfleet_jobs.search.problem import SearchProblem, SearchSettings, shots_of
from zfleet_jobs.search.run import SearchResult, register_mixture, run_search

__all__ = [
    "FoundMixture",
    "SearchProblem",
    "SearchResult",
    "SearchSettings",
    "SearchTrial",
    "ShotScore",
    "register_mixture",
    "run_search",
    "search_mixtures",
    "shots_of",
]

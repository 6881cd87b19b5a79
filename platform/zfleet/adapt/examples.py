"""Known prompts by their hidden states: which labels are near a prompt, and is it unlike those of its label?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from zfleet.config.calibrate import LEAST_EXAMPLES
from zfleet.errors import DispatcherError

if TYPE_CHECKING:
    from usearch.index import Index

NEIGHBOURS = 10
"""How many examples of a label a prompt is compared with."""
RANK = 5
"""The neighbour whose distance says how strange a prompt is. The nearest one alone lets prompts through that lie beside
a single odd example, and among few examples all that are near in words and not in what they ask."""
EXACT_BELOW = 10_000
"""From so many examples on the nearest are searched approximately."""

_CHUNK = 1000
_EXPANSION = 128
"""How many candidates an approximate search keeps; usearch's default of 64 misses more of the nearest."""
_TINY = 1e-6
_SAME = 1e-3
"""A distance that float32 cannot tell from 0."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled prompts as points on a sphere: hidden states, standardised in each dimension, at unit length.

    Hidden states of language models have a few dimensions that would decide every distance alone; standardising removes
    that (Timkey and van Schijndel 2021, "All Bark and No Bite", section 5).

    Attributes:
        points: [n, hidden] float32, each of length 1; those of the first label come first.
        labels: The labels, in order.
        counts: [labels] int32, how many points each has.
        mean: [hidden] float32, of the hidden states of the first labels; ``with_label`` leaves it as it is.
        deviation: [hidden] float32, their standard deviation.
        spreads: [labels] float32, of each label the median distance from an example to the ``RANK``-th nearest that
            differs.
    """

    points: np.ndarray
    labels: tuple[str, ...]
    counts: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    spreads: np.ndarray

    @classmethod
    def from_states(cls, states: Mapping[str, np.ndarray]) -> Examples:
        """Make examples of hidden states.

        Args:
            states: {label: [n, hidden] float32}, ``LEAST_EXAMPLES`` or more of each.

        Raises:
            DispatcherError: Too few, values that are not finite, or examples of one label that are all the same.
        """
        for label, rows in states.items():
            _check_states(label, rows)
        every = np.concatenate(list(states.values())).astype(np.float32)
        none = np.empty(0, np.float32)
        bare = cls(
            points=np.empty((0, every.shape[1]), np.float32),
            labels=(),
            counts=np.empty(0, np.int32),
            mean=every.mean(axis=0),
            deviation=np.maximum(every.std(axis=0), _TINY),
            spreads=none,
        )
        for label, rows in states.items():
            bare = bare._with(label, rows)
        return bare

    def with_label(self, label: str, states: np.ndarray) -> Examples:
        """Add a label by examples of it; nothing about the others changes.

        Args:
            label: A new one.
            states: [n, hidden] float32, ``LEAST_EXAMPLES`` or more.

        Raises:
            DispatcherError: The label is there, or as ``from_states``.
        """
        if label in self.labels:
            raise DispatcherError(f"label {label!r} is there already", "give the new class another label")
        _check_states(label, states, self.mean.size)
        return self._with(label, states)

    def distances(self, state: np.ndarray) -> list[np.ndarray]:
        """Find the nearest examples of each label.

        Args:
            state: [hidden] float32, a prompt's hidden state.

        Returns:
            For each label the Euclidean distances on the sphere to the ``NEIGHBOURS`` nearest, [k] float32, ascending.

        Raises:
            DispatcherError: The hidden state is of another size.
        """
        if state.shape != self.mean.shape:
            raise DispatcherError(
                f"the hidden state has {state.size} numbers, the examples have {self.mean.size}",
                "use the base that the dispatcher was calibrated on",
            )
        point = self._on_sphere(state[None])
        return [group.distances(point, NEIGHBOURS)[0] for group in self._groups]

    def novelty(self, label: str, distances: list[np.ndarray]) -> float:
        """Return how far a prompt is from the examples of a label, in units of what is usual there.

        That is the distance to the ``RANK``-th nearest (Sun et al. 2022, "Out-of-Distribution Detection with Deep
        Nearest Neighbors", section 3), over the label's spread. A prompt that was given a wrong label is far from it,
        whatever else it is near to; labels with few examples are sparse, and their spread is larger.

        Args:
            label: That the prompt is given.
            distances: Of the prompt, from ``distances``.
        """
        place = self.labels.index(label)
        own = distances[place]
        return float(own[min(RANK, len(own)) - 1] / self.spreads[place])

    def _with(self, label: str, states: np.ndarray) -> Examples:
        own = self._on_sphere(states)
        found = _Group(own, exact=len(own) < EXACT_BELOW).distances(own, NEIGHBOURS + 1)
        # Not the example itself, nor one that is the same to the base.
        others = [row[row > _SAME][:RANK] for row in found]
        farthest = [row[-1] for row in others if row.size]
        if not farthest:
            raise _all_the_same(label)
        spread = np.median(farthest)
        return Examples(
            points=np.concatenate([self.points, own]),
            labels=(*self.labels, label),
            counts=np.append(self.counts, np.int32(len(own))),
            mean=self.mean,
            deviation=self.deviation,
            spreads=np.append(self.spreads, np.float32(spread)),
        )

    def _on_sphere(self, states: np.ndarray) -> np.ndarray:
        standard = (states - self.mean) / self.deviation
        lengths = np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), _TINY)
        points: np.ndarray = (standard / lengths).astype(np.float32)
        return points

    @cached_property
    def _groups(self) -> list[_Group]:
        exact = len(self.points) < EXACT_BELOW
        return [_Group(points, exact) for points in np.split(self.points, np.cumsum(self.counts)[:-1])]


class _Group:
    """The examples of one label.

    Args:
        points: [n, hidden] float32.
        exact: Compare with all of them.
    """

    def __init__(self, points: np.ndarray, exact: bool) -> None:
        self._points = points
        self._exact = exact

    def distances(self, points: np.ndarray, count: int) -> np.ndarray:
        """Return the distances from each point [m, hidden] to the nearest: [m, k] float32, ascending."""
        count = min(count, len(self._points))
        parts = [self._nearest(points[start : start + _CHUNK], count) for start in range(0, len(points), _CHUNK)]
        return np.concatenate(parts)

    def _nearest(self, points: np.ndarray, count: int) -> np.ndarray:
        if self._exact:
            similar = -np.partition(-(points @ self._points.T), count - 1, axis=1)[:, :count]
        else:
            keys = np.asarray(self._index.search(points, count, threads=1).keys, np.int64).reshape(len(points), count)
            similar = np.einsum("mh,mkh->mk", points, self._points[keys])
        # On the sphere: distance^2 = 2 - 2 cosine.
        return np.sort(np.sqrt(np.maximum(0.0, 2.0 - 2.0 * similar)), axis=1).astype(np.float32)

    @cached_property
    def _index(self) -> Index:
        # Imported late: few dispatchers have so many examples.
        from usearch.index import Index

        index = Index(ndim=self._points.shape[1], metric="ip", dtype="f32", expansion_search=_EXPANSION)
        # One thread: the graph depends on the order in which points are added.
        index.add(np.arange(len(self._points)), self._points, threads=1)
        return index


def _check_states(label: str, states: np.ndarray, hidden: int | None = None) -> None:
    if states.ndim != 2 or (hidden is not None and states.shape[1] != hidden):
        raise DispatcherError(
            f"the hidden states of label {label!r} are {list(states.shape)}, the examples [n, {hidden}]",
            "compute them with the base that the dispatcher was calibrated on",
        )
    if len(states) < LEAST_EXAMPLES:
        remedy = f"give {LEAST_EXAMPLES} or more; 20 are good"
        raise DispatcherError(f"label {label!r} has {len(states)} examples", remedy)
    if not np.isfinite(states).all():
        raise DispatcherError(f"the hidden states of label {label!r} hold NaN or infinite values", "check the base")
    if (states == states[0]).all():
        raise _all_the_same(label)


def _all_the_same(label: str) -> DispatcherError:
    return DispatcherError(f"the examples of label {label!r} are all the same", "give prompts that differ")

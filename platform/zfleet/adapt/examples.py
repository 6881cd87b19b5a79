"""Known prompts by their hidden states: which are nearest to a prompt, and is it unlike all of them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from zfleet.config.calibrate import LEAST_EXAMPLES
from zfleet.errors import DispatcherError

if TYPE_CHECKING:
    from usearch.index import Index

NEIGHBOURS = 10
"""How many examples a prompt is compared with."""
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
        points: [n, hidden] float32, each of length 1.
        of: [n] int32, the place in ``labels`` of each.
        labels: The labels, in order.
        mean: [hidden] float32, of the hidden states of the first labels; ``with_label`` leaves it as it is.
        deviation: [hidden] float32, their standard deviation.
        spreads: [labels] float32, of each label the median distance from an example to its ``NEIGHBOURS``-th nearest.
    """

    points: np.ndarray
    of: np.ndarray
    labels: tuple[str, ...]
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
        every = np.concatenate(list(states.values()))
        mean, deviation = every.mean(axis=0), np.maximum(every.std(axis=0), _TINY)
        of = np.repeat(np.arange(len(states), dtype=np.int32), [len(rows) for rows in states.values()])
        zeros = np.zeros(len(states), np.float32)
        bare = cls(_on_sphere(every, mean, deviation), of, tuple(states), mean, deviation, zeros)
        spreads = [bare._spread(place) for place in range(len(states))]
        return cls(bare.points, of, bare.labels, mean, deviation, np.array(spreads, np.float32))

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
        points = np.concatenate([self.points, _on_sphere(states, self.mean, self.deviation)])
        of = np.concatenate([self.of, np.full(len(states), len(self.labels), np.int32)])
        labels = (*self.labels, label)
        bare = Examples(points, of, labels, self.mean, self.deviation, np.append(self.spreads, np.float32(0)))
        spreads = np.append(self.spreads, np.float32(bare._spread(len(self.labels))))
        return Examples(points, of, labels, self.mean, self.deviation, spreads)

    def nearest(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the ``NEIGHBOURS`` nearest examples of a prompt.

        Args:
            state: [hidden] float32, its hidden state.

        Returns:
            Euclidean distances on the sphere [k] float32, ascending, and the examples' places [k].

        Raises:
            DispatcherError: The hidden state is of another size.
        """
        if state.shape != self.mean.shape:
            raise DispatcherError(
                f"the hidden state has {state.size} numbers, the examples have {self.mean.size}",
                "use the base that the dispatcher was calibrated on",
            )
        (distances,), (places,) = self._search(_on_sphere(state[None], self.mean, self.deviation), NEIGHBOURS)
        return distances, places

    def novelty(self, state: np.ndarray) -> float:
        """Return how far a prompt is from the examples, in units of what is usual there.

        That is the distance to its ``NEIGHBOURS``-th nearest (Sun et al. 2022, "Out-of-Distribution Detection with Deep
        Nearest Neighbors"), over the spread of the nearest one's label: labels with few examples are sparse.
        """
        return self.novelty_of(*self.nearest(state))

    def novelty_of(self, distances: np.ndarray, places: np.ndarray) -> float:
        """Return the novelty of a prompt whose nearest examples were found."""
        return float(distances[-1] / self.spreads[self.of[places[0]]])

    def _spread(self, label: int) -> float:
        own = np.flatnonzero(self.of == label)
        distances = []
        for start in range(0, len(own), _CHUNK):
            rows = own[start : start + _CHUNK]
            found, places = self._search(self.points[rows], NEIGHBOURS + 1)
            # Without the example itself; an approximate search, or an equal example, may leave it out.
            found[places == rows[:, None]] = -1.0
            distances.append(np.sort(found, axis=1)[:, -1])
        spread = float(np.median(np.concatenate(distances)))
        if spread <= _SAME:
            raise _all_the_same(self.labels[label])
        return spread

    def _search(self, points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest examples of each point [m, hidden]: distances and places, both [m, k], nearest first."""
        count = min(count, len(self.points))
        if len(self.points) < EXACT_BELOW:
            similar = points @ self.points.T
            places = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        else:
            keys = self._index.search(points, count, threads=1).keys
            places = np.asarray(keys, np.int64).reshape(len(points), count)
        near = np.einsum("mh,mkh->mk", points, self.points[places])
        distances = np.sqrt(np.maximum(0.0, 2.0 - 2.0 * near)).astype(np.float32)
        order = np.argsort(distances, axis=1, kind="stable")
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(places, order, axis=1)

    @cached_property
    def _index(self) -> Index:
        # Imported late: few dispatchers have so many examples.
        from usearch.index import Index

        index = Index(ndim=self.points.shape[1], metric="ip", dtype="f32", expansion_search=_EXPANSION)
        # One thread: the graph depends on the order in which points are added.
        index.add(np.arange(len(self.points)), self.points, threads=1)
        return index


def _on_sphere(states: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    standard = (states - mean) / deviation
    lengths = np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), _TINY)
    points: np.ndarray = (standard / lengths).astype(np.float32)
    return points


def _check_states(label: str, states: np.ndarray, hidden: int | None = None) -> None:
    if states.ndim != 2 or (hidden is not None and states.shape[1] != hidden):
        raise DispatcherError(
            f"the hidden states of label {label!r} are {list(states.shape)}, the examples [n, {hidden}]",
            "compute them with the base that the dispatcher was calibrated on",
        )
    if len(states) < LEAST_EXAMPLES:
        raise DispatcherError(
            f"label {label!r} has {len(states)} examples", f"give {LEAST_EXAMPLES} or more; 20 are good"
        )
    if not np.isfinite(states).all():
        raise DispatcherError(f"the hidden states of label {label!r} hold NaN or infinite values", "check the base")
    if (states == states[0]).all():
        raise _all_the_same(label)


def _all_the_same(label: str) -> DispatcherError:
    return DispatcherError(f"the examples of label {label!r} are all the same", "give prompts that differ")


def stacked(states: Sequence[Sequence[float]]) -> np.ndarray:
    """Return hidden states as one array, [n, hidden] float32."""
    return np.array(states, np.float32)

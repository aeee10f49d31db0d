"""Medians, spreads and ratios over rounds in which everybody had a turn. Knows nothing of who was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class PeerMissing(Exception):
    """A peer was not measured, so nothing can be said. The message names it."""


@dataclass(frozen=True)
class Series:
    """One figure, taken once a round."""

    name: str
    unit: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest."""
        return min(self.samples), max(self.samples)


@dataclass(frozen=True)
class Target:
    """What a figure has to reach: at least or at most so much."""

    value: float
    at_least: bool = True

    def is_reached(self, median: float) -> bool:
        """Tell whether a median reaches it."""
        return median >= self.value if self.at_least else median <= self.value


def better(alternatives: Sequence[Series], *, higher: bool = True) -> Series:
    """Return the alternative with the better median; the first of equal ones. Raises ValueError when there is none."""
    if not alternatives:
        raise ValueError("there is nothing to choose from")
    return (max if higher else min)(alternatives, key=lambda series: series.median)


def ratio(ours: Series, theirs: Series) -> Series:
    """Return ours divided by theirs, round by round: what slows a whole round down slows both.

    Raises:
        ValueError: they had not the same rounds.
    """
    pairs = zip(ours.samples, theirs.samples, strict=True)
    return Series(f"{ours.name} / {theirs.name}", "x", tuple(one / other for one, other in pairs))


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that at least so many percent of all do not exceed (nearest rank).

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("there are no samples")
    return sorted(samples)[max(math.ceil(len(samples) * percent / 100), 1) - 1]


def require_all(measured: Mapping[str, Sequence[float]], wanted: Sequence[str], rounds: int) -> None:
    """Refuse to compare when somebody is missing.

    Raises:
        PeerMissing: one of those wanted was not measured in each round.
    """
    for name in wanted:
        count = len(measured.get(name, ()))
        if count < rounds:
            raise PeerMissing(f"{name} was measured in {count} of {rounds} rounds: without it nothing can be compared")

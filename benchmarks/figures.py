"""Figures of Atelier alone, each with a limit, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One figure: a median, its unit, the limit that it must not pass, and the samples behind it."""

    name: str
    median: float
    unit: str
    limit: float
    samples: list[float] = field(default_factory=list)

    @property
    def is_reached(self) -> bool:
        """Whether the median is within the limit."""
        return self.median <= self.limit


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    rows = ["| figure | median | min .. max | limit | |", "|---|---|---|---|---|"]
    for figure in figures:
        spread = f"{min(figure.samples):.3g} .. {max(figure.samples):.3g}" if figure.samples else ""
        verdict = "reached" if figure.is_reached else "MISSED"
        median, limit = (f"{value:.3g} {figure.unit}" for value in (figure.median, figure.limit))
        rows.append(f"| {figure.name} | {median} | {spread} | {limit} | {verdict} |")
    return "\n".join(rows)

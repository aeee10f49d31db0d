"""What an upstream's work costs, by the prices that the operator wrote down, and what it came to so far."""

from __future__ import annotations

import threading
from dataclasses import dataclass

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """In whatever currency the operator counts; None where no price is given."""

    per_million_input_tokens: float | None = None
    per_million_output_tokens: float | None = None
    per_image: float | None = None

    def of_text(self, input_tokens: int, output_tokens: int) -> float | None:
        """What a text costs; None when no price of tokens is given."""
        if self.per_million_input_tokens is None and self.per_million_output_tokens is None:
            return None
        read = input_tokens * (self.per_million_input_tokens or 0.0)
        return (read + output_tokens * (self.per_million_output_tokens or 0.0)) / _MILLION

    def of_images(self, count: int) -> float | None:
        """What pictures cost; None when no price is given."""
        return None if self.per_image is None else count * self.per_image


class Spent:
    """The sums since the engine began. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}

    def add(self, name: str, amount: float) -> None:
        """Add to one sum, such as `upstream_requests`."""
        with self._lock:
            self._sums[name] = self._sums.get(name, 0.0) + amount

    def sums(self) -> dict[str, float]:
        """Every sum by its name."""
        with self._lock:
            return dict(self._sums)


def in_words(cost: float | None) -> str:
    """The end of a line in a job's log: nothing when the cost is not known."""
    return "" if cost is None else f"; cost {cost:.6f}".rstrip("0").rstrip(".")

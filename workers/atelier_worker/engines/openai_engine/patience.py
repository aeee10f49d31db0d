"""Trying again: how often, how long to wait in between, and what an upstream says about that itself."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from atelier_worker.engine import EngineError

T = TypeVar("T")
Sleep = Callable[[float, str], Awaitable[None]]


class Again(Exception):
    """It failed in a way that another try may help, and nothing was made of it yet.

    `problem` is what the stage fails with when there is no other try; `after_s` is what the upstream asks to wait.
    """

    def __init__(self, problem: EngineError, after_s: float | None = None) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Patience:
    """At most `attempts` tries; waits double from `first_s` to `longest_s`, each cut by up to a half at random.

    An upstream that asks for a longer wait than `most_asked_s` is given up: another worker may be faster.
    """

    attempts: int = 4
    first_s: float = 0.5
    longest_s: float = 20.0
    most_asked_s: float = 120.0

    async def keep_trying(self, once: Callable[[], Awaitable[T]], sleep: Sleep, rng: random.Random) -> T:
        """Return what `once` returns; `sleep` waits so many seconds and can say why.

        Raises:
            EngineError: the last try failed, or one in a way that no other would help.
        """
        for number in range(1, self.attempts + 1):
            try:
                return await once()
            except Again as again:
                if number == self.attempts:
                    raise again.problem from again
                wait_s = self._wait_s(number, again, rng)
                await sleep(wait_s, f"trying the upstream again, {number} of {self.attempts - 1}")
        raise ValueError(f"attempts must be at least 1, got {self.attempts}")

    def _wait_s(self, number: int, again: Again, rng: random.Random) -> float:
        own_s = min(self.longest_s, self.first_s * 2.0 ** (number - 1)) * rng.uniform(0.5, 1.0)
        if again.after_s is None:
            return own_s
        if again.after_s > self.most_asked_s:
            message = f"{again.problem} It asks to wait {again.after_s:.0f} seconds."
            raise EngineError(message, retryable=True) from again
        # A little later than asked, and not everybody at once.
        return again.after_s + rng.uniform(0.0, self.first_s)


def asked_wait_s(header: str | None, now: datetime) -> float | None:
    """The seconds of a header Retry-After (RFC 9110, 10.2.3): a number or a date; None when it says nothing useful."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.replace(".", "", 1).isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())

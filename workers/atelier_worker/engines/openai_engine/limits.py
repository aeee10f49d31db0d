"""How much is asked of an upstream in a minute: requests and tokens, with whoever waits served in turn."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

WINDOW_S = 60.0
# Who is not the next in line looks again this soon.
_IN_LINE_S = 0.05
# What a token is taken for until the upstream has counted: four characters of English.
CHARACTERS_PER_TOKEN = 4

Clock = Callable[[], float]
Wait = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Passage:
    """One request that was let through: when, in seconds of the clock, and how many tokens it is taken to need."""

    at: float
    tokens: int


class MinuteLimits:
    """At most so many requests and tokens in any sixty seconds. Safe from any thread.

    A request that alone needs more tokens than a minute has is let through when nothing else was sent in that minute:
    whether it is too large is for the upstream to say.
    """

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None, clock: Clock) -> None:
        """Limit by either, both or (None) neither; `clock` gives seconds that only ever grow."""
        self._requests, self._tokens, self._clock = requests_per_minute, tokens_per_minute, clock
        self._lock = threading.Lock()
        self._line: deque[object] = deque()
        self._passed: deque[Passage] = deque()

    async def enter(self, tokens: int, wait: Wait) -> Passage:
        """Return when one more request may be sent; `wait` is awaited with the seconds to wait, at most a minute.

        Whatever `wait` raises gives up the place in line.
        """
        ticket = object()
        with self._lock:
            self._line.append(ticket)
        try:
            while True:
                with self._lock:
                    wait_s = self._wait_s(tokens) if self._line[0] is ticket else _IN_LINE_S
                    if wait_s <= 0:
                        passage = Passage(self._clock(), tokens)
                        self._passed.append(passage)
                        return passage
                await wait(wait_s)
        finally:
            with self._lock:
                self._line.remove(ticket)

    def correct(self, passage: Passage, tokens: int) -> None:
        """Note what the upstream counted, in place of what was taken for it."""
        with self._lock:
            passage.tokens = tokens

    def _wait_s(self, tokens: int) -> float:
        """How long until one more request of so many tokens fits into the last minute; 0 when it does."""
        now = self._clock()
        while self._passed and self._passed[0].at + WINDOW_S <= now:
            self._passed.popleft()
        requests, held = len(self._passed), sum(one.tokens for one in self._passed)
        for one in (None, *self._passed):
            if one is not None:
                requests, held = requests - 1, held - one.tokens
            fits = self._requests is None or requests < self._requests
            if fits and (self._tokens is None or held + tokens <= self._tokens or requests == 0):
                return 0.0 if one is None else one.at + WINDOW_S - now
        return WINDOW_S

"""What is measured the same way on Atelier and on the queues that it is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

_DONE_WITHIN_S = 120.0
_LOOK_EVERY_S = 0.02
_CHECK_EVERY_S = 1.0


@dataclass(frozen=True)
class Burst:
    """So many jobs, from the first submission until the last was done."""

    jobs: int
    seconds: float
    # Processor seconds: of what submits and of what plays the worker, and of each server process.
    load_s: float
    used_s: dict[str, float] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds

    @property
    def load_share(self) -> float:
        """How much of one core the load itself took; more than 1 on several cores."""
        return self.load_s / self.seconds


class Queue(Protocol):
    """A running job queue with its workers."""

    @property
    def name(self) -> str:
        """Its name in the tables."""

    def burst(self, jobs: int) -> Burst:
        """Submit jobs as fast as possible; returns when all are done."""

    def waits_ms(self, jobs: int, per_second: float) -> list[float]:
        """Submit at a steady rate; returns, per job, the milliseconds from its submission until a worker had it."""


def wait_until(done: Callable[[], bool], what: str, check: Callable[[], None] | None = None) -> None:
    """Look again and again; call `check` now and then, which raises when it will never be done.

    Raises:
        RuntimeError: it is not done within two minutes.
    """
    started = time.monotonic()
    checked = started
    while not done():
        now = time.monotonic()
        if now - started > _DONE_WITHIN_S:
            raise RuntimeError(f"{what}: not done within {_DONE_WITHIN_S:g} s")
        if check is not None and now - checked > _CHECK_EVERY_S:
            check()
            checked = now
        time.sleep(_LOOK_EVERY_S)

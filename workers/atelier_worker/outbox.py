"""What waits to be written on the stream: control messages in order, then credits, then reports when they are due."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker.reports import Reports

_MOST_WAITING = 1000
# The router takes 2 MiB in one message, and the largest single one is a bundle of previews with 1 MiB of them.
_ENOUGH_BYTES = 256 << 10
GATHER_S = 0.0005
"""How long a message waits, for each other stage, after the one before it."""
GATHER_MOST_S = 0.01
# The router counts the slot of an acknowledged lease as taken, and none as free behind a rejected one. So credits
# follow them even where they are as they were: a stage may have come to its end before its lease was acknowledged.
_CHANGES_CREDITS = frozenset({"lease_ack", "lease_reject"})


class Outbox:
    """Feeds the one writer of a stream. It outlives sessions; `reset` begins a new one."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Take the time in seconds from `now`, the clock of the event loop."""
        self._now = now
        self._wake = asyncio.Event()
        self._control: deque[pb.WorkRequest] = deque()
        self._credits: int | None = None
        self._told_credits: int | None = None
        self._ending = False
        self._taken_at = -GATHER_MOST_S
        self.stuck = asyncio.Event()
        self.reports = Reports(now, self._wake.set)

    def reset(self) -> None:
        """Forget what an earlier session did not take; whoever owes something puts it in again."""
        self._control.clear()
        self.stuck.clear()
        self._ending = False
        self._told_credits = None

    def end(self) -> None:
        """Have `next` return nothing when everything that waits now was taken: the session comes to its end."""
        self._ending = True
        self._wake.set()

    def put(self, message: pb.WorkRequest) -> None:
        """Add one control message. When more wait than any worker can owe, it is dropped and `stuck` is set."""
        if len(self._control) >= _MOST_WAITING:
            self.stuck.set()
            return
        self._control.append(message)
        self._wake.set()

    def set_credits(self, free: int, *, repeat: bool = False) -> None:
        """Say how many stages are free. Sent when it differs from what was said, or with `repeat` in any case."""
        self._credits = free
        if repeat:
            self._told_credits = None
        self._wake.set()

    async def next(self, most: int = 1) -> list[pb.WorkRequest]:
        """Return what comes next, at most so many messages, and wait if there is nothing; none after `end`.

        For one reader.
        """
        if most > 1 and len(self._control) < most:
            await self._gather()
        while True:
            self._wake.clear()
            messages = self._take_some(most)
            if messages:
                self._taken_at = self._now()
                return messages
            if self._ending:
                return []
            due = self.reports.due_at()
            alarm = None if due is None else asyncio.get_running_loop().call_at(due, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if alarm is not None:
                    alarm.cancel()

    async def _gather(self) -> None:
        """Have what many stages say travel together: a message costs both sides more than what is in it.

        One stage alone waits for nobody. What fills a message waits no longer, for it would only pile up behind it.
        """
        others = max(0, len(self.reports) - 1)
        pause_s = self._taken_at + min(GATHER_MOST_S, others * GATHER_S) - self._now()
        if pause_s > 0 and not self._ending:
            await asyncio.sleep(pause_s)

    def _take_some(self, most: int) -> list[pb.WorkRequest]:
        taken: list[pb.WorkRequest] = []
        size_bytes = 0
        while len(taken) < most and size_bytes < _ENOUGH_BYTES and (message := self._take()) is not None:
            taken.append(message)
            size_bytes += message.ByteSize()
        return taken

    def _take(self) -> pb.WorkRequest | None:
        if self._control:
            message = self._control.popleft()
            if message.WhichOneof("message") in _CHANGES_CREDITS:
                self._told_credits = None
            return message
        if self._credits is not None and self._credits != self._told_credits:
            self._told_credits = self._credits
            return pb.WorkRequest(credits=pb.Credits(free=self._credits))
        reports = self.reports.take()
        return pb.WorkRequest(reports=pb.Reports(reports=reports)) if reports else None

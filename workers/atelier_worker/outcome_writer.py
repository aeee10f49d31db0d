"""Outcomes on their way to disk: what comes while a thread writes is written by it next, all of it together.

A change of threads and a flush cost more than what is written, and many stages end in the same moment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker.journal import Journal
from service_kit.telemetry import get_logger

FORGET_WITHIN_S = 0.05
"""How long an answered outcome waits at most to be removed with whatever is written next: nobody waits for that."""

log = get_logger(__name__)


@dataclass(slots=True)
class _Changes:
    """What one thread does. There are never more than a worker has stages: each waits for its own."""

    keep: list[tuple[pb.Outcome, asyncio.Future[None]]] = field(default_factory=list)
    forget: list[pb.OutcomeAck] = field(default_factory=list)


class OutcomeWriter:
    """Keeps and forgets outcomes in a journal. What was begun is done, even if nobody waits for it any more."""

    def __init__(self, journal: Journal) -> None:
        """Write to a journal, and to nobody else's."""
        self._journal = journal
        self._next = _Changes()
        self._writing: asyncio.Task[None] | None = None
        self._forgetting: asyncio.TimerHandle | None = None

    async def keep(self, outcome: pb.Outcome) -> None:
        """Return when an outcome is on disk, where neither a crash nor a power cut takes it.

        Raises:
            OSError: it cannot be written.
        """
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next.keep.append((outcome, kept))
        self._write_soon()
        await kept

    def forget(self, ack: pb.OutcomeAck) -> None:
        """Remove an outcome that was answered, soon. One that is still there after a restart is sent once more."""
        self._next.forget.append(ack)
        if self._forgetting is None:
            self._forgetting = asyncio.get_running_loop().call_later(FORGET_WITHIN_S, self._write_soon)

    async def close(self) -> None:
        """Return when everything that was asked for is done."""
        self._write_soon()
        while self._writing is not None:
            await self._writing
        self._journal.close()

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="outcomes")

    async def _write_all(self) -> None:
        try:
            while self._next.keep or self._next.forget:
                if self._forgetting is not None:
                    self._forgetting.cancel()
                    self._forgetting = None
                changes, self._next = self._next, _Changes()
                await self._write(changes)
        finally:
            self._writing = None

    async def _write(self, changes: _Changes) -> None:
        outcomes = [outcome for outcome, _ in changes.keep]
        answered = [ack.completion_id for ack in changes.forget]
        error: Exception | None = None
        try:
            await asyncio.to_thread(self._journal.change, outcomes, answered)
        except Exception as failure:
            error = failure
            if not isinstance(failure, OSError):
                log.exception("outcomes_fault")
            elif answered:
                # After a restart they are sent once more, and answered as repeats.
                log.error("outcomes_not_forgotten", outcomes=len(answered), error=str(failure))
        for _, kept in changes.keep:
            if kept.done():
                continue
            if error is None:
                kept.set_result(None)
            else:
                kept.set_exception(error)

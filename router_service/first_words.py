"""Stages leased as if their text had been read, and of which nothing has gone out yet: only this process knows.

Text that nobody can take back must be noted before its first piece goes. A note of its own is a transaction for which
the reader waits, so it is part of the lease. That is too early, and whoever ends a lease asks here whether it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from router_service.domain import LeaseRef

AWAITED_S = 1.0
"""How long a lease stays marked whose worker says nothing; then the note waits for the first piece again."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    ref: LeaseRef
    session: str
    since_s: float


class FirstWords:
    """What was leased here a moment ago, with its mark, and has said nothing. Each is forgotten within seconds."""

    def __init__(self) -> None:
        self._awaited: dict[str, _Awaited] = {}

    def expect(self, ref: LeaseRef, session: str, now_s: float) -> None:
        """Note a lease that was given to a session; `now_s` is on the clock that `overdue` is told."""
        self._awaited[ref.job_id] = _Awaited(ref, session, now_s)

    def forget(self, job_id: str) -> None:
        """Let the mark of a job be the truth: its text goes out, or its lease is over."""
        self._awaited.pop(job_id, None)

    def none_of(self, ref: LeaseRef, session: str) -> bool:
        """Tell whether nothing of this lease has gone out, as long as this session of its worker had it."""
        awaited = self._awaited.get(ref.job_id)
        return awaited is not None and (awaited.ref, awaited.session) == (ref, session)

    def overdue(self, now_s: float) -> list[tuple[LeaseRef, str]]:
        """Return the leases, and their sessions, that have been silent for too long. They stay until forgotten."""
        return [(each.ref, each.session) for each in self._awaited.values() if now_s - each.since_s >= AWAITED_S]

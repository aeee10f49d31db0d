"""The other replicas of the router: which jobs they watch, and what their workers report of jobs that are watched here.

Nothing is reported to them that they do not watch. They say what they watch again and again, so a lost message heals.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta

from router_service import reports
from router_service.reports import Preview, Progress, Report
from service_kit.events.exchange import Exchange
from service_kit.identity import Owner

SAY_EVERY = timedelta(seconds=3)
_BELIEVED_S = 10.0
_AT_ONCE = 500
_MOST_WANTED = 100_000

_WATCHING, _ASK, _REPORT, _ANSWER, _RESET = "watching", "ask", "report", "answer", "reset"

Latest = Callable[[str], tuple[Owner, list[Report]] | None]


class Neighbours:
    """What replicas tell each other about reports."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        latest: Latest,
        hear: Callable[[Owner, Report], None],
        hear_reset: Callable[[str], None],
    ) -> None:
        """Take part.

        Args:
            exchange: the way to the others.
            latest: what has been reported of a job that runs here; None when it runs elsewhere.
            hear: is told what is reported elsewhere.
            hear_reset: is told of a job of which everything that was reported is over.
        """
        self._exchange = exchange
        self._latest = latest
        self._hear = hear
        self._hear_reset = hear_reset
        self._me = secrets.token_hex(4)
        self._jobs: dict[str, float] = {}
        self._owners: dict[Owner, float] = {}
        exchange.listen(_WATCHING, self._hear_watching)
        exchange.listen(_ASK, self._hear_ask)
        exchange.listen(_REPORT, lambda payload: self._hear(*reports.from_bytes(payload)))
        exchange.listen(_ANSWER, self._hear_answer)
        exchange.listen(_RESET, lambda payload: self._hear_reset(payload.decode()))

    # --- what they want ---------------------------------------------------------------------------------------------

    def tell(self, owner: Owner, report: Report) -> None:
        """Report to those who watch the job, or for progress the owner. Costs next to nothing when nobody does."""
        if not self._jobs and not self._owners:
            return
        now = time.monotonic()
        wanted = self._jobs.get(report.job_id, 0.0) > now
        if wanted or (isinstance(report, Progress) and self._owners.get(owner, 0.0) > now):
            self._exchange.publish(_REPORT, reports.to_bytes(owner, report), key=_key(report))

    def reset(self, job_id: str) -> None:
        """Tell those who watch a job that what was reported of it is over."""
        if self._jobs.get(job_id, 0.0) > time.monotonic():
            self._exchange.publish(_RESET, job_id.encode())

    def _hear_watching(self, payload: bytes) -> None:
        told = json.loads(payload)
        now = time.monotonic()
        for tenant_id, owner_id in told["owners"]:
            self._owners[Owner(tenant_id, owner_id)] = now + _BELIEVED_S
        for job_id in told["jobs"]:
            is_new = self._jobs.get(job_id, 0.0) <= now
            self._want(job_id, now)
            if is_new:
                self._answer(told["from"], job_id)

    def _hear_ask(self, payload: bytes) -> None:
        who, job_id, only_text = json.loads(payload)
        self._want(job_id, time.monotonic())
        self._answer(who, job_id, only_text=only_text)

    def _want(self, job_id: str, now: float) -> None:
        if len(self._jobs) < _MOST_WANTED:
            self._jobs[job_id] = now + _BELIEVED_S

    def _answer(self, who: str, job_id: str, *, only_text: bool = False) -> None:
        latest = self._latest(job_id)
        if latest is None:
            return
        owner, so_far = latest
        for report in so_far:
            if not only_text or isinstance(report, reports.TextDelta):
                self._exchange.publish(_ANSWER, who.encode() + b"\n" + reports.to_bytes(owner, report))

    # --- what is wanted here ----------------------------------------------------------------------------------------

    def ask(self, job_id: str, *, only_text: bool = False) -> None:
        """Say that a job is watched here from now on, and ask for what was reported so far, or for the text of it."""
        payload = json.dumps([self._me, job_id, only_text]).encode()
        self._exchange.publish(_ASK, payload, key=f"{job_id} {only_text}")

    def say(self, jobs: Collection[str], owners: Iterable[Owner]) -> None:
        """Say what is watched here; and forget what others have not said lately."""
        now = time.monotonic()
        self._jobs = {job_id: until for job_id, until in self._jobs.items() if until > now}
        self._owners = {owner: until for owner, until in self._owners.items() if until > now}
        ids, mine = list(jobs), [[owner.tenant_id, owner.owner_id] for owner in owners]
        for begin in range(0, max(len(ids), len(mine)), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            told = {"from": self._me, "jobs": ids[part], "owners": mine[part]}
            self._exchange.publish(_WATCHING, json.dumps(told).encode(), key=f"{begin}")

    def say_owner(self, owner: Owner) -> None:
        """Say that an owner's jobs are watched here from now on."""
        told = {"from": self._me, "jobs": [], "owners": [[owner.tenant_id, owner.owner_id]]}
        self._exchange.publish(_WATCHING, json.dumps(told).encode())

    def _hear_answer(self, payload: bytes) -> None:
        who, _, report = payload.partition(b"\n")
        if who.decode() == self._me:
            self._hear(*reports.from_bytes(report))


def _key(report: Report) -> str | None:
    """Return what a later report of the same thing has in common; None for what must arrive in full."""
    if isinstance(report, Progress):
        return f"progress {report.job_id} {report.asset_index}"
    if isinstance(report, Preview):
        return f"preview {report.job_id} {report.asset_index}"
    return None

"""Takes what running stages report to whoever watches, here and at other replicas. In memory, best effort, no truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from router_service.chat_domain import LONGEST_REPLY
from router_service.domain import Job, LeaseRef, StageKind
from router_service.first_words import FirstWords
from router_service.neighbours import SAY_EVERY, Neighbours
from router_service.reports import LogLine, Pending, Preview, Progress, Report, TextDelta
from router_service.signals import Signals, job_topic, owner_topic, reports_topic
from service_kit.identity import Owner

# Whose worker has said nothing for this long believes another replica that reports of the same job.
_SILENT_S = 2.0
LARGEST_PREVIEW = 64 * 1024
_K = TypeVar("_K")


@dataclass(slots=True)
class _Live:
    """A job that runs at a worker of this replica: who watches it, and what a late watcher has missed."""

    owner: Owner
    fence: int
    quantity: int
    stage: StageKind
    share: tuple[float, float]
    # Whether its text goes out: if nobody can take it back, None while it is not noted that somebody has read.
    text_goes: bool | None
    done: dict[int, float] = field(default_factory=dict)
    latest: Pending = field(default_factory=Pending)
    heard_at: float = field(default_factory=time.monotonic)


class Relay:
    """Takes reports from workers' sessions, and from other replicas, and gives them to watchers."""

    def __init__(self, signals: Signals) -> None:
        self.first_words = FirstWords()
        self._signals = signals
        self._live: dict[str, _Live] = {}
        # What was reported elsewhere of jobs that are watched here.
        self._mirrors: dict[str, Pending] = {}
        self._watching_job: dict[str, list[Pending]] = {}
        self._watching_owner: dict[Owner, list[Pending]] = {}
        self._neighbours = Neighbours(
            signals.exchange, latest=self._latest, hear=self._hear, hear_reset=self._hear_reset
        )

    async def run(self) -> None:
        """Say again and again to the other replicas what is watched here, until cancelled."""
        while True:
            self._neighbours.say(self._watching_job, self._watching_owner)
            await asyncio.sleep(SAY_EVERY.total_seconds())

    # --- what workers of this replica report ------------------------------------------------------------------------

    def began(self, job: Job) -> None:
        """Begin anew: a stage was leased."""
        share = (0.0, 1.0)
        if len(job.stages) > 1:
            share = (0.0, 0.1) if job.stage == 0 else (0.1, 0.9)
        goes = True if job.told or not job.cannot_restart else None
        self._live[job.job_id] = _Live(
            job.owner, job.fence, max(job.settings.quantity, 1), job.current.kind, share, goes
        )
        self._mirrors.pop(job.job_id, None)
        self._neighbours.reset(job.job_id)

    def ended(self, job_id: str) -> None:
        """Forget a job whose stage no longer runs."""
        self.first_words.forget(job_id)
        self._leave(job_id)

    def lease_ended(self, ref: LeaseRef) -> None:
        """Forget a job of which this very lease is over, or whose worker is no longer connected here."""
        live = self._live.get(ref.job_id)
        if live is not None and live.fence == ref.fence:
            self._leave(ref.job_id)
            if ref.job_id in self._watching_job:
                # Another replica may have it from now on.
                self._neighbours.ask(ref.job_id)

    def _leave(self, job_id: str) -> None:
        if self._live.pop(job_id, None) is not None:
            self._neighbours.reset(job_id)

    def step(self, job_id: str, *, asset_index: int, step: int, steps: int, phase: str) -> None:
        """Take the progress of one output."""
        live = self._live.get(job_id)
        if live is None or not 0 <= asset_index < live.quantity:
            return
        live.done[asset_index] = min(max(step / steps, 0.0), 1.0) if steps > 0 else 0.0
        begin, length = live.share
        fraction = begin + length * sum(live.done.values()) / live.quantity
        self._tell(live, Progress(job_id, live.stage, asset_index, step, steps, fraction, phase[:100]))

    def preview(self, job_id: str, *, asset_index: int, step: int, content_type: str, image: bytes) -> None:
        """Take a preview. One that is too large is dropped."""
        live = self._live.get(job_id)
        if live is None or len(image) > LARGEST_PREVIEW or not 0 <= asset_index < live.quantity:
            return
        self._tell(live, Preview(job_id, asset_index, step, content_type[:64], image))

    def holds_text(self, job_id: str) -> bool:
        """Tell whether it must be noted before the text of a job that runs here goes out."""
        live = self._live.get(job_id)
        return live is not None and live.text_goes is None

    def hold_text(self, ref: LeaseRef) -> None:
        """Keep the text of this very lease until `decide_text`."""
        live = self._live.get(ref.job_id)
        if live is not None and live.fence == ref.fence:
            live.text_goes = None

    def has_told_nothing(self, ref: LeaseRef, session: str) -> bool:
        """Tell whether nothing of a lease has gone out. If so nothing does before `decide_text`, which asks anew.

        What comes while its end is written would be read, and the stage tried again.
        """
        silent = self.first_words.none_of(ref, session)
        if silent:
            self.hold_text(ref)
        return silent

    def decide_text(self, ref: LeaseRef, *, goes: bool) -> None:
        """Let the text of this very lease go out, or keep all of it."""
        live = self._live.get(ref.job_id)
        if live is not None and live.fence == ref.fence:
            live.text_goes = goes

    def text(self, job_id: str, *, offset: int, text: str) -> None:
        """Take a piece of text. One that leaves a gap is dropped: the whole text comes with the job's end."""
        live = self._live.get(job_id)
        if (
            live is None
            or not live.text_goes
            or not 0 <= offset <= min(live.latest.text_end, LONGEST_REPLY - len(text))
        ):
            return
        self.first_words.forget(job_id)
        self._tell(live, TextDelta(job_id, offset, text))

    def log(self, job_id: str, line: str) -> None:
        """Take a line of the engine."""
        live = self._live.get(job_id)
        if live is not None:
            self._tell(live, LogLine(job_id, line[:2000]))

    def _tell(self, live: _Live, report: Report) -> None:
        live.heard_at = time.monotonic()
        live.latest.add(report, only_progress=False)
        self._give(live.owner, report)
        self._neighbours.tell(live.owner, report)

    # --- who watches ------------------------------------------------------------------------------------------------

    @contextmanager
    def watch_job(self, job_id: str) -> Iterator[Pending]:
        """Collect the reports of one job, beginning with the newest that there are."""
        pending = Pending()
        live = self._live.get(job_id)
        latest = live.latest if live is not None else self._mirrors.get(job_id)
        if latest is not None:
            for report in latest.all():
                pending.add(report, only_progress=False)
        with _listed(self._watching_job, job_id, pending):
            if latest is None:
                self._neighbours.ask(job_id)
            try:
                yield pending
            finally:
                if len(self._watching_job[job_id]) == 1:
                    self._mirrors.pop(job_id, None)

    @contextmanager
    def watch_owner(self, owner: Owner) -> Iterator[Pending]:
        """Collect the progress of all jobs of an owner."""
        pending = Pending()
        with _listed(self._watching_owner, owner, pending):
            self._neighbours.say_owner(owner)
            yield pending

    def knows(self, job_id: str) -> bool:
        """Tell whether what is reported of a job is known here, if anything is: no other replica needs to say it."""
        return self._signals.exchange.alone or job_id in self._live or job_id in self._mirrors

    def _give(self, owner: Owner, report: Report) -> None:
        for pending in self._watching_job.get(report.job_id, ()):
            pending.add(report, only_progress=False)
        self._signals.watchers.notify(reports_topic(job_topic(report.job_id)))
        if isinstance(report, Progress) and owner in self._watching_owner:
            for pending in self._watching_owner[owner]:
                pending.add(report, only_progress=True)
            self._signals.watchers.notify(reports_topic(owner_topic(owner)))

    # --- what other replicas report ---------------------------------------------------------------------------------

    def _latest(self, job_id: str) -> tuple[Owner, list[Report]] | None:
        live = self._live.get(job_id)
        return None if live is None else (live.owner, live.latest.all())

    def _hear(self, owner: Owner, report: Report) -> None:
        job_id = report.job_id
        live = self._live.get(job_id)
        if live is not None:
            if time.monotonic() - live.heard_at < _SILENT_S:
                # It has come here meanwhile, and this was still on its way.
                return
            # Its worker went elsewhere, and the connection that it had here does not know it yet.
            del self._live[job_id]
        if job_id in self._watching_job:
            mirror = self._mirrors.setdefault(job_id, Pending())
            if isinstance(report, TextDelta):
                if report.offset > mirror.text_end:
                    # A piece in between was lost on the way.
                    self._neighbours.ask(job_id, only_text=True)
                    return
                report = _unknown_part(mirror.text, report)
                if not report.text:
                    return
            mirror.add(report, only_progress=False)
        self._give(owner, report)

    def _hear_reset(self, job_id: str) -> None:
        self._mirrors.pop(job_id, None)


@contextmanager
def _listed(lists: dict[_K, list[Pending]], key: _K, pending: Pending) -> Iterator[None]:
    lists.setdefault(key, []).append(pending)
    try:
        yield
    finally:
        lists[key] = [other for other in lists[key] if other is not pending]
        if not lists[key]:
            del lists[key]


def _unknown_part(known: TextDelta | None, told: TextDelta) -> TextDelta:
    """Return what a piece adds to the text that is known; all of it if it says something else."""
    if known is None or told.offset < known.offset:
        return told
    begin = told.offset - known.offset
    overlap = known.text[begin:]
    if not told.text.startswith(overlap):
        return told
    return TextDelta(told.job_id, told.offset + len(overlap), told.text[len(overlap) :])

"""What running stages report: progress, previews, text, log lines. Kept in memory, best effort, never the truth."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from router_service.domain import Job, StageKind
from router_service.signals import Signals, job_topic, owner_topic, reports_topic
from service_kit.identity import Owner

_MOST_TEXT = 64_000
_MOST_LOG_LINES = 100
LARGEST_PREVIEW = 64 * 1024
_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class Progress:
    """Step k of n of one output; `fraction` is that of the whole job."""

    job_id: str
    stage: StageKind
    asset_index: int
    step: int
    steps: int
    fraction: float
    phase: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture of an output in the making."""

    job_id: str
    asset_index: int
    step: int
    content_type: str
    image: bytes


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the text that is being written; offset in characters."""

    job_id: str
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that the engine wrote."""

    job_id: str
    line: str


Report = Progress | Preview | TextDelta | LogLine


@dataclass(slots=True)
class Pending:
    """What one watcher has not been told yet. The newest of each kind replaces the older, so it stays small."""

    progress: dict[tuple[str, int], Progress] = field(default_factory=dict)
    previews: dict[int, Preview] = field(default_factory=dict)
    text: TextDelta | None = None
    log: deque[LogLine] = field(default_factory=lambda: deque(maxlen=_MOST_LOG_LINES))

    def add(self, report: Report, *, only_progress: bool) -> None:
        """Note a report."""
        if isinstance(report, Progress):
            self.progress[report.job_id, report.asset_index] = report
        elif only_progress:
            return
        elif isinstance(report, Preview):
            self.previews[report.asset_index] = report
        elif isinstance(report, LogLine):
            self.log.append(report)
        else:
            self.text = _joined(self.text, report)

    def take(self) -> list[Report]:
        """Return everything that is pending, and forget it."""
        text = [] if self.text is None else [self.text]
        taken: list[Report] = [*self.log, *text, *self.previews.values(), *self.progress.values()]
        self.log.clear()
        self.previews.clear()
        self.progress.clear()
        self.text = None
        return taken


@dataclass(slots=True)
class _Live:
    """One running job: who watches it, and what a late watcher has missed."""

    owner: Owner
    quantity: int
    stage: StageKind
    share: tuple[float, float]
    done: dict[int, float] = field(default_factory=dict)
    latest: Pending = field(default_factory=Pending)


class Relay:
    """Takes reports from workers' sessions and gives them to watchers."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._live: dict[str, _Live] = {}
        self._watching_job: dict[str, list[Pending]] = {}
        self._watching_owner: dict[Owner, list[Pending]] = {}

    def began(self, job: Job) -> None:
        """Begin anew: a stage was leased."""
        share = (0.0, 1.0)
        if len(job.stages) > 1:
            share = (0.0, 0.1) if job.stage == 0 else (0.1, 0.9)
        self._live[job.job_id] = _Live(job.owner, max(job.settings.quantity, 1), job.current.kind, share)

    def ended(self, job_id: str) -> None:
        """Forget a job whose stage no longer runs."""
        self._live.pop(job_id, None)

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

    def text(self, job_id: str, *, offset: int, text: str) -> None:
        """Take a piece of text. One that leaves a gap is dropped: the whole text comes with the job's end."""
        live = self._live.get(job_id)
        if live is None or offset + len(text) > _MOST_TEXT:
            return
        so_far = live.latest.text
        if offset > (0 if so_far is None else so_far.offset + len(so_far.text)):
            return
        self._tell(live, TextDelta(job_id, offset, text))

    def log(self, job_id: str, line: str) -> None:
        """Take a line of the engine."""
        live = self._live.get(job_id)
        if live is not None:
            self._tell(live, LogLine(job_id, line[:2000]))

    def latest_progress(self, job_id: str) -> list[Progress]:
        """Return how far each output of a running job is. May be empty."""
        live = self._live.get(job_id)
        return [] if live is None else list(live.latest.progress.values())

    @contextmanager
    def watch_job(self, job_id: str) -> Iterator[Pending]:
        """Collect the reports of one job, beginning with the newest that there are."""
        pending = Pending()
        live = self._live.get(job_id)
        if live is not None:
            for report in (*live.latest.log, live.latest.text, *live.latest.previews.values()):
                if report is not None:
                    pending.add(report, only_progress=False)
            pending.progress.update(live.latest.progress)
        with _listed(self._watching_job, job_id, pending):
            yield pending

    @contextmanager
    def watch_owner(self, owner: Owner) -> Iterator[Pending]:
        """Collect the progress of all jobs of an owner."""
        pending = Pending()
        with _listed(self._watching_owner, owner, pending):
            yield pending

    def _tell(self, live: _Live, report: Report) -> None:
        live.latest.add(report, only_progress=False)
        for pending in self._watching_job.get(report.job_id, ()):
            pending.add(report, only_progress=False)
        self._signals.watchers.notify(reports_topic(job_topic(report.job_id)))
        if isinstance(report, Progress) and live.owner in self._watching_owner:
            for pending in self._watching_owner[live.owner]:
                pending.add(report, only_progress=True)
            self._signals.watchers.notify(reports_topic(owner_topic(live.owner)))


@contextmanager
def _listed(lists: dict[_K, list[Pending]], key: _K, pending: Pending) -> Iterator[None]:
    lists.setdefault(key, []).append(pending)
    try:
        yield
    finally:
        lists[key] = [other for other in lists[key] if other is not pending]
        if not lists[key]:
            del lists[key]


def _joined(before: TextDelta | None, after: TextDelta) -> TextDelta:
    """Return one piece for two: the later one overwrites from its offset on."""
    if before is None or after.offset <= before.offset:
        return after
    kept = before.text[: after.offset - before.offset]
    return TextDelta(after.job_id, before.offset, kept + after.text)

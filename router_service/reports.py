"""What is reported of a running stage: progress, previews, text, log lines; and how it travels between replicas."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field

from router_service.domain import StageKind
from service_kit.identity import Owner

_MOST_LOG_LINES = 100


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

    @property
    def text_end(self) -> int:
        """The offset after the last character of the text so far."""
        return 0 if self.text is None else self.text.offset + len(self.text.text)

    def all(self) -> list[Report]:
        """Return everything that is pending."""
        text = [] if self.text is None else [self.text]
        return [*self.log, *text, *self.previews.values(), *self.progress.values()]

    def take(self) -> list[Report]:
        """Return everything that is pending, and forget it."""
        taken = self.all()
        self.log.clear()
        self.previews.clear()
        self.progress.clear()
        self.text = None
        return taken


def to_bytes(owner: Owner, report: Report) -> bytes:
    """Return a report and whose it is: a line of JSON, and after it the picture of a preview."""
    image = b""
    fields: list[object]
    match report:
        case Progress(job_id, stage, index, step, steps, fraction, phase):
            fields = ["progress", job_id, stage.value, index, step, steps, fraction, phase]
        case Preview(job_id, index, step, content_type, image):
            fields = ["preview", job_id, index, step, content_type]
        case TextDelta(job_id, offset, text):
            fields = ["text", job_id, offset, text]
        case LogLine(job_id, line):
            fields = ["log", job_id, line]
    return json.dumps([owner.tenant_id, owner.owner_id, *fields]).encode() + b"\n" + image


def from_bytes(payload: bytes) -> tuple[Owner, Report]:
    """Return a report and whose it is. Raises ValueError for what is none."""
    line, _, image = payload.partition(b"\n")
    tenant_id, owner_id, kind, job_id, *fields = json.loads(line)
    report: Report
    match kind:
        case "progress":
            report = Progress(job_id, StageKind(fields[0]), *fields[1:])
        case "preview":
            index, step, content_type = fields
            report = Preview(job_id, index, step, content_type, image)
        case "text":
            report = TextDelta(job_id, *fields)
        case "log":
            report = LogLine(job_id, *fields)
        case _:
            raise ValueError(f"{kind!r} is no kind of report")
    return Owner(tenant_id, owner_id), report


def _joined(before: TextDelta | None, after: TextDelta) -> TextDelta:
    """Return one piece for two: the later one overwrites from its offset on."""
    if before is None or after.offset <= before.offset:
        return after
    kept = before.text[: after.offset - before.offset]
    return TextDelta(after.job_id, before.offset, kept + after.text)

"""What running stages tell, coalesced: the latest of everything, merged text, and when the next bundle is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker.refs import Ref

FLUSH_S = 0.02
PREVIEW_INTERVAL_S = 0.5
_PREVIEW_BYTES_PER_BUNDLE = 1 << 20
_LOG_LINES = 50
_LOG_LINE_CHARACTERS = 2000


@dataclass(slots=True)
class _Stage:
    progress: dict[int, pb.StepProgress] = field(default_factory=dict)
    previews: dict[int, pb.PreviewImage] = field(default_factory=dict)
    preview_due: dict[int, float] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    text_offset: int = 0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_LINES))
    due: float | None = None
    spoke: bool = False


class Reports:
    """Keeps, per lease, what the router has not heard yet.

    Bounded: the latest progress and preview of each output, the text that was not sent, the last lines of the log.
    What cannot be sent is overtaken by what comes later.
    """

    def __init__(self, now: Callable[[], float], wake: Callable[[], None]) -> None:
        """Take the time in seconds from `now`; call `wake` when the time that is due may have become earlier."""
        self._now = now
        self._wake = wake
        self._stages: dict[Ref, _Stage] = {}

    def __len__(self) -> int:
        """Return how many leases are listened to."""
        return len(self._stages)

    def open(self, ref: Ref) -> None:
        """Begin to listen to a lease."""
        self._stages[ref] = _Stage()

    def close(self, ref: Ref) -> list[pb.Report]:
        """Stop listening to a lease, and return what should still be sent before its outcome: no previews."""
        stage = self._stages.pop(ref, None)
        return [] if stage is None else list(_spoken(ref, stage))

    def progress(self, ref: Ref, progress: pb.StepProgress) -> None:
        """Report a step. The first one of a lease is due at once: somebody waits to see that it has begun."""
        stage = self._stages.get(ref)
        if stage is not None:
            stage.progress[progress.asset_index] = progress
            self._mark(stage)

    def preview(self, ref: Ref, preview: pb.PreviewImage) -> None:
        """Report a picture. It replaces an earlier one of the same output that was not sent."""
        stage = self._stages.get(ref)
        if stage is not None:
            stage.previews[preview.asset_index] = preview
            stage.preview_due.setdefault(preview.asset_index, self._now())
            self._wake()

    def text(self, ref: Ref, piece: str) -> None:
        """Report the next piece of the text."""
        stage = self._stages.get(ref)
        if stage is not None:
            stage.text.append(piece)
            self._mark(stage)

    def log(self, ref: Ref, line: str) -> None:
        """Report a line."""
        stage = self._stages.get(ref)
        if stage is not None:
            stage.lines.append(line[:_LOG_LINE_CHARACTERS])
            self._mark(stage)

    def due_at(self) -> float | None:
        """Return when `take` has something to give; None when there is nothing to wait for."""
        moments = [stage.due for stage in self._stages.values() if stage.due is not None]
        for stage in self._stages.values():
            moments += [stage.preview_due[index] for index in stage.previews]
        return min(moments, default=None)

    def take(self) -> list[pb.Report]:
        """Return what is due now, oldest lease first. An empty list when nothing is.

        What is due takes along what other leases would say a moment later: one bundle for all of them.
        """
        now = self._now()
        bundle: list[pb.Report] = []
        size = 0
        spoken = any(stage.due is not None and stage.due <= now for stage in self._stages.values())
        for ref, stage in self._stages.items():
            if spoken and stage.due is not None:
                bundle += _spoken(ref, stage)
            for index in [index for index in stage.previews if stage.preview_due[index] <= now]:
                size += len(stage.previews[index].image)
                if size > _PREVIEW_BYTES_PER_BUNDLE:
                    return bundle
                bundle.append(pb.Report(ref=ref.to_proto(), preview=stage.previews.pop(index)))
                stage.preview_due[index] = now + PREVIEW_INTERVAL_S
        return bundle

    def _mark(self, stage: _Stage) -> None:
        if stage.due is None:
            stage.due = self._now() + (FLUSH_S if stage.spoke else 0.0)
            stage.spoke = True
            self._wake()


def _spoken(ref: Ref, stage: _Stage) -> list[pb.Report]:
    """Take everything but previews out of a stage."""
    name = ref.to_proto()
    reports = [pb.Report(ref=name, log=line) for line in stage.lines]
    reports += [pb.Report(ref=name, progress=progress) for progress in stage.progress.values()]
    if stage.text:
        text = "".join(stage.text)
        reports.append(pb.Report(ref=name, text=pb.TextPiece(offset=stage.text_offset, text=text)))
        stage.text_offset += len(text)
    stage.lines.clear()
    stage.progress.clear()
    stage.text.clear()
    stage.due = None
    return reports

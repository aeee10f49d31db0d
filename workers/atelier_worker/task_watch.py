"""How long a task may take, and how long it may be silent."""

from __future__ import annotations

from dataclasses import dataclass

from atelier.engine.v1 import engine_host_pb2 as pb

# A phase that begins so is the loading of a model, which may be silent for longer than a step of work.
LOADING = "loading"


@dataclass(frozen=True, slots=True)
class Limits:
    """The patience of a worker with one engine, in seconds; None waits for ever.

    `stall_s` is the longest silence of a task that works, `load_s` of one that loads a model or has not yet begun.
    """

    deadline_s: float | None = None
    stall_s: float | None = 300.0
    load_s: float | None = 600.0


class TaskWatch:
    """Knows until when a task may go on. Times are seconds of one monotonic clock."""

    def __init__(self, limits: Limits, now: float) -> None:
        """Begin to watch a task that begins now: until it has done something it is taken to be loading."""
        self._limits = limits
        self._began = self._heard = now
        self._loading = True

    def hear(self, message: object, now: float) -> None:
        """Take note that the task said something."""
        self._heard = now
        match message:
            case pb.TaskProgress():
                is_loading = message.phase.startswith(LOADING)
                self._loading = is_loading or (self._loading and message.step == 0)
            case pb.TaskPreview() | pb.TaskText() | pb.OutputDelivered():
                self._loading = False

    @property
    def due(self) -> float | None:
        """When patience ends if nothing more is heard; None: never."""
        ends = [start + limit for start, limit, _ in self._ends() if limit is not None]
        return min(ends, default=None)

    def verdict(self, now: float) -> str | None:
        """Return why the task has to end, in a sentence for its owner; None while it may go on."""
        for start, limit, sentence in self._ends():
            if limit is not None and now >= start + limit:
                return sentence.format(_duration(limit))
        return None

    def past_deadline(self, now: float) -> bool:
        """Tell whether the task has had all the time that there is, so that another attempt would be no use."""
        return self._limits.deadline_s is not None and now >= self._began + self._limits.deadline_s

    def _ends(self) -> list[tuple[float, float | None, str]]:
        deadline = (self._began, self._limits.deadline_s, "The work took longer than the {} that the worker allows.")
        if self._loading:
            silence = "The engine said nothing for {} while it loaded; it was stopped."
            return [deadline, (self._heard, self._limits.load_s, silence)]
        return [deadline, (self._heard, self._limits.stall_s, "The engine made no progress for {}; it was stopped.")]


def _duration(seconds: float) -> str:
    if seconds >= 60 and seconds % 60 == 0:
        minutes = int(seconds // 60)
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{seconds:g} seconds"

"""Watching a job in a terminal: bars where there is one, lines where there is none, nothing with --json."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from atelier_cli.context import Context
from atelier_cli.exits import TIMED_OUT, UNREACHABLE, Ended, complain
from atelier_cli.terminal import visible

if TYPE_CHECKING:
    from atelier_client import Atelier, Job, JobEvent


class Display(Protocol):
    """Shows events while a job runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: JobEvent) -> None:
        """Take one event."""


def display_for(context: Context, quantity: int) -> Display:
    """Return the display that fits where stderr goes."""
    if context.json:
        return Silence()
    return Bars(quantity) if sys.stderr.isatty() else Lines()


def follow(client: Atelier, job_id: str, *, after: str = "", timeout: float | None = None) -> Iterator[JobEvent]:
    """Yield a job's events; a limit of time or a lost connection ends with how to come back."""
    from atelier_client import Timeout, Unreachable

    come_back = f"The job may go on: see it with `atelier jobs watch {job_id}`."
    try:
        yield from client.watch(job_id, after, timeout=timeout)
    except Timeout as error:
        raise Ended(TIMED_OUT, f"atelier: {error} {come_back}") from error
    except Unreachable as error:
        raise Ended(UNREACHABLE, f"atelier: {error} {come_back}") from error


def tell_end(context: Context, job: Job | None) -> Job:
    """Say on stderr how a job ended, and return it."""
    if job is None or not job.ended:
        raise Ended(UNREACHABLE, "atelier: the stream ended before the job did.")
    for warning in job.warnings:
        context.note(f"warning: {warning.message}")
    for output in job.outputs:
        if output.failure is not None:
            context.note(f"output {output.asset_index} failed: {output.failure.message}")
    if job.state != "succeeded":
        said = f": {job.failure.message} ({job.failure.reason})" if job.failure else ""
        complain(f"atelier: job {job.job_id} {'was cancelled' if job.state == 'cancelled' else 'failed'}{said}")
        if context.json:
            context.print_json({"job": job.raw})
    return job


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, event: JobEvent) -> None:
        """Take one event."""


class Lines(Silence):
    """Prints a line on stderr when something changes: the state, what it waits for, a tenth of the way."""

    def __init__(self) -> None:
        self._last = ""
        self._tenth = 0

    def show(self, event: JobEvent) -> None:
        """Take one event."""
        if event.job is not None:
            waits_for = event.job.waits_for
            self._say(f"{event.job.state}{f': {waits_for}' if waits_for else ''}")
        elif event.progress is not None:
            tenth = int(event.progress.fraction * 10)
            if tenth > self._tenth:
                self._tenth = tenth
                self._say(f"{event.progress.stage} {tenth * 10}%")
        elif event.log is not None:
            self._say(event.log.line)

    def _say(self, line: str) -> None:
        if line != self._last:
            complain(line)
            self._last = line


class Bars(Silence):
    """Draws a bar for each output on the terminal."""

    def __init__(self, quantity: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            # Engines and routers say what stands there: it is no markup.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[phase]}", style="dim", markup=False),
            console=Console(stderr=True),
        )
        self._quantity = quantity
        self._tasks: dict[tuple[str, int], Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: JobEvent) -> None:
        """Take one event."""
        if event.progress is not None:
            progress = event.progress
            task = self._task(progress.stage, progress.asset_index)
            self._progress.update(
                task, completed=progress.step, total=progress.steps or None, phase=visible(progress.phase)
            )
        elif event.job is not None:
            self._job(event.job)
        elif event.log is not None:
            self._progress.console.print(visible(event.log.line), markup=False, highlight=False)

    def _job(self, job: Job) -> None:
        waiting = self._task("waits", 0) if job.waits_for else self._tasks.get(("waits", 0))
        if waiting is not None:
            self._progress.update(waiting, phase=visible(job.waits_for), visible=bool(job.waits_for))
        for output in job.outputs:
            task = self._tasks.get(("generate", output.asset_index))
            if task is not None and output.state == "delivered":
                total = self._progress.tasks[task].total or 1
                self._progress.update(task, completed=total, total=total, phase="")

    def _task(self, stage: str, index: int) -> Any:
        if (stage, index) not in self._tasks:
            name = f"output {index + 1} of {self._quantity}" if stage == "generate" else stage
            self._tasks[stage, index] = self._progress.add_task(name, total=None, phase="")
        return self._tasks[stage, index]

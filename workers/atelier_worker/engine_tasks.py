"""The tasks of one engine process: each is started, watched, cancelled, and ended exactly once."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker.engine import Task
from atelier_worker.engine_events import TaskEnd, TaskSink, tell
from atelier_worker.engine_process import EngineProcess
from atelier_worker.engine_wire import task_to_proto
from atelier_worker.task_watch import Limits, TaskWatch
from service_kit.telemetry import get_logger

DEFAULT_CANCEL_GRACE_S = 10.0

log = get_logger(__name__)


@dataclass(slots=True)
class Tally:
    """What became of the tasks of an engine since the worker began, over all of its processes."""

    ends: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass(slots=True)
class _Running:
    sink: TaskSink
    ended: asyncio.Future[TaskEnd]
    watch: TaskWatch
    began: float
    grace: asyncio.TimerHandle | None = None
    # What a task that we stop ends with, unless it comes to its end all the same.
    verdict: TaskEnd = field(default_factory=lambda: TaskEnd("cancelled"))
    overdue: bool = False


class EngineTasks:
    """Runs tasks in one process. A task that does not stop costs the process, but no task beside it."""

    def __init__(
        self, engine: str, process: EngineProcess, limits: Limits, tally: Tally, on_change: Callable[[], None]
    ) -> None:
        """Begin without tasks; `on_change` hears when the process takes no more."""
        self._engine = engine
        self._process = process
        self._limits = limits
        self._tally = tally
        self._on_change = on_change
        self._running: dict[str, _Running] = {}
        self._numbers = itertools.count(1)
        self._alarm: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.condemned = False
        self.idle_since: float | None = self._loop.time()

    def __len__(self) -> int:
        """Return how many tasks have not ended in the process, the ones that were given up included."""
        return len(self._running)

    async def run(self, task: Task, workdir: Path, sink: TaskSink) -> TaskEnd:
        """Run one task to its end. Cancelling this coroutine cancels the task."""
        task_id, now = str(next(self._numbers)), self._loop.time()
        running = _Running(sink, self._loop.create_future(), TaskWatch(self._limits, now), now)
        self._running[task_id] = running
        self.idle_since = None
        self._look_at(running.watch.due)
        self._process.write(pb.HostRequest(run=task_to_proto(task_id, workdir, task)))
        try:
            return await asyncio.shield(running.ended)
        except asyncio.CancelledError:
            self._cancel(task_id, DEFAULT_CANCEL_GRACE_S)
            raise

    def cancel(self, sink: TaskSink, grace_s: float) -> None:
        """Have the task of a sink stop at its next step, and give it up if it has not after `grace_s`."""
        for task_id, running in self._running.items():
            if running.sink is sink:
                self._cancel(task_id, grace_s)

    def hear(self, kind: str, message: object) -> None:
        """Take what the process said of a task; one that has ended is passed over."""
        if isinstance(message, pb.TaskEnded):
            self._take_end(message)
            return
        task_id = str(getattr(message, "task_id", ""))
        running = self._running.get(task_id)
        if running is not None and not running.overdue:
            running.watch.hear(message, self._loop.time())
            self._look_at(running.watch.due)
            tell(running.sink, kind, message)

    def end_all(self, sentence: str) -> None:
        """Fail what still runs: the process is gone."""
        for running in self._running.values():
            self._end(running, TaskEnd("crashed", sentence, retryable=True))
        self._running.clear()
        if self._alarm is not None:
            self._alarm.cancel()

    def _look_at(self, due: float | None) -> None:
        """Look at the tasks when the patience with one would end. A later end is found out when they are looked at."""
        if due is None or (self._alarm is not None and self._alarm.when() <= due):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._alarm = None
        for task_id, running in list(self._running.items()):
            if running.grace is None:
                self._judge(task_id, running)

    def _judge(self, task_id: str, running: _Running) -> None:
        """Stop a task that takes too long."""
        sentence = running.watch.verdict(self._loop.time())
        if sentence is None:
            self._look_at(running.watch.due)
            return
        log.warning("task_takes_too_long", engine=self._engine, task_id=task_id, reason=sentence)
        running.verdict = TaskEnd("crashed", sentence, retryable=not running.watch.past_deadline(self._loop.time()))
        self._cancel(task_id, DEFAULT_CANCEL_GRACE_S)

    def _cancel(self, task_id: str, grace_s: float) -> None:
        running = self._running.get(task_id)
        if running is None:
            return
        self._process.write(pb.HostRequest(cancel=pb.CancelTask(task_id=task_id)))
        if running.grace is None:
            running.grace = self._loop.call_later(grace_s, self._give_up, task_id)

    def _give_up(self, task_id: str) -> None:
        """End a task that did not stop. Its thread is lost, so the process takes no more and goes when it is alone."""
        running = self._running.get(task_id)
        if running is None:
            return
        log.warning("engine_does_not_stop", engine=self._engine, task_id=task_id)
        running.overdue = self.condemned = True
        self._end(running, running.verdict)
        self._kill_if_hung()
        self._on_change()

    def _take_end(self, ended: pb.TaskEnded) -> None:
        running = self._running.pop(ended.task_id, None)
        if running is None:
            return
        match ended.WhichOneof("result"):
            case "finished":
                end = TaskEnd("finished")
            case "cancelled":
                end = running.verdict
            case _:
                end = TaskEnd("failed", ended.failure.message, ended.failure.retryable)
        self._end(running, end)
        if not self._running:
            self.idle_since = self._loop.time()
        self._kill_if_hung()

    def _end(self, running: _Running, end: TaskEnd) -> None:
        if running.grace is not None:
            running.grace.cancel()
        if not running.ended.done():
            self._tally.ends[end.kind] += 1
            self._tally.seconds += self._loop.time() - running.began
            running.ended.set_result(end)

    def _kill_if_hung(self) -> None:
        """Kill a process in which every task should have stopped long ago; tasks that still count keep it alive."""
        if self._running and all(task.overdue for task in self._running.values()):
            self._process.kill("a task in it did not stop")

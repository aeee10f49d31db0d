"""The worker's end of the engine's process: starts it, hands it tasks, and starts it again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker import frames
from atelier_worker.engine import LoadedModel, Task
from atelier_worker.engine_events import EngineInfo, EngineUnavailable, TaskEnd, TaskSink, tell
from atelier_worker.engine_wire import task_to_proto
from service_kit.ids import new_id
from service_kit.telemetry import get_logger

DEFAULT_CANCEL_GRACE_S = 10.0
_LOAD_LIMIT_S = 900.0
_STOP_LIMIT_S = 2.0
_LONGEST_PAUSE_S = 10.0
_PIPE_BUFFER_BYTES = 1 << 20

log = get_logger(__name__)


# glibc keeps what a thread has freed. Pictures are large and come and go in threads: without this the engine's process
# holds three times what it uses. Whoever sets these for the worker has the last word.
_MEMORY_GOES_BACK = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "262144",
}


@dataclass(slots=True)
class _Running:
    sink: TaskSink
    ended: asyncio.Future[TaskEnd]
    grace: asyncio.TimerHandle | None = None
    overdue: bool = False


@dataclass(slots=True)
class _Host:
    process: Process
    tasks: dict[str, _Running] = field(default_factory=dict)
    gifts: dict[str, asyncio.Future[int]] = field(default_factory=dict)
    answers: set[asyncio.Task[None]] = field(default_factory=set)
    loaded: tuple[LoadedModel, ...] = ()
    kill_timer: asyncio.TimerHandle | None = None


class EngineClient:
    """One engine in one child process. A crash fails the tasks that were running and nothing else."""

    def __init__(
        self,
        engine: str,
        options: Mapping[str, object],
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare an engine.

        `on_change` may be set; it hears when the engine becomes ready and when it no longer is. So may `on_need_room`,
        which has the other engines free memory of a device and returns the bytes that they freed.

        Args:
            engine: its entry point, or `module:Class`.
            options: what its class is constructed with: texts, numbers, lists and tables.
            environ: the environment of the process; by default the worker's; `ATELIER_*` is left out.
        """
        self._engine = engine
        self._options = dict(options)
        given = os.environ if environ is None else environ
        passed_on = {name: value for name, value in given.items() if not name.startswith("ATELIER_")}
        self._environ = _MEMORY_GOES_BACK | passed_on
        self.on_change: Callable[[], None] = _nothing
        self.on_need_room: Callable[[str, int], Awaitable[int]] = _no_room
        self._host: _Host | None = None
        self._info: EngineInfo | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._first: asyncio.Future[EngineInfo] | None = None
        self._stopping = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether a task can be run now."""
        return self._info is not None

    @property
    def pid(self) -> int | None:
        """The process id, or None when there is no process at the moment."""
        return self._host.process.pid if self._host is not None else None

    @property
    def loaded(self) -> tuple[LoadedModel, ...]:
        """The models that the engine keeps in memory, as it told last; none while there is no process."""
        return self._host.loaded if self._host is not None else ()

    @property
    def busy(self) -> bool:
        """Whether a task runs."""
        return self._host is not None and bool(self._host.tasks)

    async def give_room(self, device: str, wanted_bytes: int, limit_s: float) -> int:
        """Have the engine free what it keeps unused on a device; return the bytes freed.

        0 also when it has no process, dies, or has not answered after `limit_s`.
        """
        host = self._host
        if host is None or self._info is None:
            return 0
        request_id = new_id()
        gift = host.gifts[request_id] = asyncio.get_running_loop().create_future()
        give = pb.GiveRoom(request_id=request_id, device=device, wanted_bytes=wanted_bytes)
        self._write(host, pb.HostRequest(give_room=give))
        try:
            return await asyncio.wait_for(gift, limit_s)
        except TimeoutError:
            log.warning("engine_gives_no_room", engine=self._engine, device=device, limit_s=limit_s)
            return 0
        finally:
            host.gifts.pop(request_id, None)

    async def start(self) -> EngineInfo:
        """Start the process and wait until the engine is made.

        Raises:
            EngineUnavailable: it cannot be made.
        """
        self._first = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="engine")
        return await self._first

    async def stop(self) -> None:
        """End the process; running tasks fail."""
        self._stopping.set()
        if self._host is not None:
            self._ask_to_end(self._host)
        if self._supervisor is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor

    async def run(self, task: Task, workdir: Path, sink: TaskSink) -> TaskEnd:
        """Run one task to its end. Cancelling this coroutine cancels the task.

        Raises:
            EngineUnavailable: the engine is not ready.
        """
        host = self._host
        if host is None or self._info is None:
            raise EngineUnavailable(f"The engine {self._engine!r} is being started again.")
        task_id = new_id()
        running = _Running(sink, asyncio.get_running_loop().create_future())
        host.tasks[task_id] = running
        self._write(host, pb.HostRequest(run=task_to_proto(task_id, workdir, task)))
        try:
            return await asyncio.shield(running.ended)
        except asyncio.CancelledError:
            self._cancel(host, task_id, DEFAULT_CANCEL_GRACE_S)
            raise

    def _ask_to_end(self, host: _Host) -> None:
        """Close the pipe, at which the process ends by itself, and kill it if its engine does not let it."""
        _close_stdin(host.process)
        host.kill_timer = asyncio.get_running_loop().call_later(_STOP_LIMIT_S, _kill, host.process)

    def cancel(self, sink: TaskSink, grace_s: float = DEFAULT_CANCEL_GRACE_S) -> None:
        """Have the task of a sink stop at its next step.

        An engine that has not stopped after `grace_s` is killed as soon as no other task needs it.
        """
        host = self._host
        if host is not None:
            for task_id, running in host.tasks.items():
                if running.sink is sink:
                    self._cancel(host, task_id, grace_s)

    def _cancel(self, host: _Host, task_id: str, grace_s: float) -> None:
        running = host.tasks.get(task_id)
        if running is None:
            return
        self._write(host, pb.HostRequest(cancel=pb.CancelTask(task_id=task_id)))
        if running.grace is None:
            loop = asyncio.get_running_loop()
            running.grace = loop.call_later(grace_s, self._give_up, host, task_id)

    def _give_up(self, host: _Host, task_id: str) -> None:
        running = host.tasks.get(task_id)
        if running is not None:
            running.overdue = True
            log.warning("engine_does_not_stop", engine=self._engine, task_id=task_id)
        self._kill_if_hung(host)

    def _kill_if_hung(self, host: _Host) -> None:
        """Kill a process in which every task should have stopped long ago; tasks that still count keep it alive."""
        if host.tasks and all(task.overdue for task in host.tasks.values()):
            _kill(host.process)

    def _write(self, host: _Host, request: pb.HostRequest) -> None:
        # Requests are small and the host always reads; a dead host's pipe swallows them, and its tasks fail anyway.
        stdin = host.process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(frames.encode(request))

    async def _supervise(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            had_work = await self._run_process()
            if self._first is not None and not self._first.done():
                self._first.set_exception(EngineUnavailable(f"The engine {self._engine!r} ended while it was made."))
            if self._stopping.is_set() or (self._first is not None and self._first.exception() is not None):
                return
            failures = 0 if had_work else failures + 1
            pause_s = min(_LONGEST_PAUSE_S, 0.1 * 2**failures) if failures else 0.0
            log.warning("engine_restarts", engine=self._engine, pause_s=pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _run_process(self) -> bool:
        """Run one process to its end. Returns whether the engine was made in it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "atelier_worker.engine_host", "--engine", self._engine,
            stdin=PIPE, stdout=PIPE, limit=_PIPE_BUFFER_BYTES, env=self._environ,
        )  # fmt: skip
        host = self._host = _Host(process)
        self._write(host, pb.HostRequest(configure=pb.Configure(options_json=json.dumps(self._options))))
        if self._stopping.is_set():
            # stop() came while the process was being started, and found none to end.
            self._ask_to_end(host)
        was_made = False
        try:
            async with asyncio.timeout(_LOAD_LIMIT_S) as limit:
                was_made = await self._take_first(host)
                limit.reschedule(None)
                while was_made and await self._take_next(host):
                    pass
        except (frames.FrameError, TimeoutError) as error:
            log.error("engine_speaks_garbage", engine=self._engine, error=str(error) or "it was not made in time")
        finally:
            await self._reap(host)
        return was_made

    async def _reap(self, host: _Host) -> None:
        self._host, self._info = None, None
        process = host.process
        # It has closed its pipe or speaks garbage: there is nothing left to wait for.
        _kill(process)
        await process.wait()
        if host.kill_timer is not None:
            host.kill_timer.cancel()
        if not self._stopping.is_set():
            log.error("engine_ended", engine=self._engine, exit_code=process.returncode, tasks=len(host.tasks))
        for running in host.tasks.values():
            self._end(running, TaskEnd("crashed", "The engine's process died while it worked.", retryable=True))
        host.tasks.clear()
        for gift in host.gifts.values():
            if not gift.done():
                gift.set_result(0)
        for answer in host.answers:
            answer.cancel()
        await asyncio.gather(*host.answers, return_exceptions=True)
        self.on_change()

    async def _take_first(self, host: _Host) -> bool:
        response = await self._read(host)
        if response is None:
            return False
        if response.WhichOneof("message") == "refused":
            log.error("engine_refused", engine=self._engine, message=response.refused.message)
            if self._first is not None and not self._first.done():
                self._first.set_exception(EngineUnavailable(response.refused.message))
            return False
        if response.WhichOneof("message") != "ready":
            raise frames.FrameError("the engine's process did not say that it is ready")
        ready = response.ready
        self._info = EngineInfo(
            ready.name, ready.concurrency, tuple(ready.worker_types), tuple(ready.stages), tuple(ready.models)
        )
        if self._first is not None and not self._first.done():
            self._first.set_result(self._info)
        self.on_change()
        return True

    async def _read(self, host: _Host) -> pb.HostResponse | None:
        if host.process.stdout is None:
            raise frames.FrameError("the engine's process has no pipe")
        return await frames.read_async(host.process.stdout, pb.HostResponse())

    async def _take_next(self, host: _Host) -> bool:
        response = await self._read(host)
        if response is None:
            return False
        kind = response.WhichOneof("message")
        if kind is None or kind in ("ready", "refused"):
            raise frames.FrameError("the engine's process said nothing that is known")
        message = getattr(response, kind)
        match message:
            case pb.TaskEnded():
                self._take_end(host, message)
            case pb.Loaded():
                host.loaded = tuple(LoadedModel(one.name, one.device, one.size_bytes) for one in message.models)
            case pb.RoomGiven():
                gift = host.gifts.get(message.request_id)
                if gift is not None and not gift.done():
                    gift.set_result(message.freed_bytes)
            case pb.NeedRoom():
                answer = asyncio.create_task(self._make_room(host, message), name="make room")
                host.answers.add(answer)
                answer.add_done_callback(host.answers.discard)
            case _:
                running = host.tasks.get(message.task_id)
                if running is not None:
                    tell(running.sink, kind, message)
        return True

    async def _make_room(self, host: _Host, need: pb.NeedRoom) -> None:
        freed = await self.on_need_room(need.device, need.wanted_bytes)
        made = pb.RoomMade(request_id=need.request_id, freed_bytes=freed)
        self._write(host, pb.HostRequest(room_made=made))

    def _take_end(self, host: _Host, ended: pb.TaskEnded) -> None:
        running = host.tasks.pop(ended.task_id, None)
        if running is None:
            return
        match ended.WhichOneof("result"):
            case "finished":
                self._end(running, TaskEnd("finished"))
            case "cancelled":
                self._end(running, TaskEnd("cancelled"))
            case _:
                self._end(running, TaskEnd("failed", ended.failure.message, ended.failure.retryable))
        self._kill_if_hung(host)

    def _end(self, running: _Running, end: TaskEnd) -> None:
        if running.grace is not None:
            running.grace.cancel()
        if not running.ended.done():
            running.ended.set_result(end)


def _nothing() -> None:
    pass


async def _no_room(device: str, wanted_bytes: int) -> int:
    return 0


def _close_stdin(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _kill(process: Process) -> None:
    # Not process.kill(): it reaps a process that has just ended, and asyncio then never learns its exit code.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)

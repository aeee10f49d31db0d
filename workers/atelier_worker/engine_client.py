"""The worker's end of the engine's process: starts it, hands it tasks, and starts it again when it dies."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker import frames
from atelier_worker.engine import DeviceRoom, LoadedModel, Task
from atelier_worker.engine_events import EngineInfo, EngineUnavailable, TaskEnd, TaskSink
from atelier_worker.engine_process import EngineProcess
from atelier_worker.engine_tasks import DEFAULT_CANCEL_GRACE_S, EngineTasks, Tally
from atelier_worker.task_watch import Limits
from service_kit.finishing import to_the_end
from service_kit.ids import new_id
from service_kit.tasks import woken
from service_kit.telemetry import get_logger

_MAKE_LIMIT_S = 900.0
_LONGEST_PAUSE_S = 60.0
# A process that has lived for so long was not broken from the start.
_STABLE_S = 60.0

log = get_logger(__name__)


# glibc keeps what a thread has freed. Pictures are large and come and go in threads: without this the engine's process
# holds three times what it uses. Whoever sets these for the worker has the last word.
_MEMORY_GOES_BACK = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "262144",
}


@dataclass(slots=True)
class _Host:
    process: EngineProcess
    tasks: EngineTasks
    gifts: dict[str, asyncio.Future[int]] = field(default_factory=dict)
    answers: set[asyncio.Task[None]] = field(default_factory=set)
    loaded: tuple[LoadedModel, ...] = ()
    device_room: DeviceRoom | None = None
    counted: Mapping[str, float] = field(default_factory=dict)


class EngineClient:
    """One engine in one child process. A crash fails the tasks that were running and nothing else."""

    def __init__(
        self,
        engine: str,
        options: Mapping[str, object],
        *,
        name: str = "",
        limits: Limits | None = None,
        environ: Mapping[str, str] | None = None,
        promises: Path | None = None,
    ) -> None:
        """Prepare an engine.

        `on_change` may be set; it hears when the engine becomes ready and when it no longer is. So may `on_need_room`,
        which has the other engines free memory of a device and returns the bytes that they freed.

        Args:
            engine: its entry point, or `module:Class`.
            options: what its class is constructed with: texts, numbers, lists and tables.
            name: what the log calls it; the same as `engine` if empty.
            limits: how long a task may take and be silent.
            environ: the environment of the process; by default the worker's; `ATELIER_*` is left out.
            promises: the folder where engines that share devices write down who was promised memory; None: no others.
        """
        self._engine = engine
        self._name = name or engine
        self._options = dict(options)
        self._limits = limits or Limits()
        self._promises = promises
        given = os.environ if environ is None else environ
        passed_on = {name: value for name, value in given.items() if not name.startswith("ATELIER_")}
        self._environ = _MEMORY_GOES_BACK | passed_on
        self.on_change: Callable[[], None] = _nothing
        self.on_need_room: Callable[[str, int], Awaitable[int]] = _no_room
        self.tally = Tally()
        self.restarts = 0
        self.last_end = ""
        self._host: _Host | None = None
        self._info: EngineInfo | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._first: asyncio.Future[EngineInfo] | None = None
        self._stopping = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether a task can be run now."""
        return self._info is not None and self._host is not None and not self._host.tasks.condemned

    @property
    def pid(self) -> int | None:
        """The process id, or None when there is no process at the moment."""
        return self._host.process.pid if self._host is not None else None

    @property
    def loaded(self) -> tuple[LoadedModel, ...]:
        """The models that the engine keeps in memory, as it told last; none while there is no process."""
        return self._host.loaded if self._host is not None else ()

    @property
    def device_room(self) -> DeviceRoom | None:
        """What the engine's device has free, as it told last; None while there is no process, or it does not say."""
        return self._host.device_room if self._host is not None else None

    @property
    def counted(self) -> Mapping[str, float]:
        """What the engine counts itself since its process began, by name; nothing while there is no process."""
        return self._host.counted if self._host is not None else {}

    @property
    def tasks(self) -> int:
        """How many tasks run in the process."""
        return len(self._host.tasks) if self._host is not None else 0

    @property
    def idle_since(self) -> float | None:
        """When the last task ended, in seconds of the event loop's clock; None while one runs or without a process."""
        return self._host.tasks.idle_since if self._host is not None else None

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
            self._host.process.ask_to_end()
        if self._supervisor is not None:
            # It ends by itself, in seconds: the process is killed if it does not. Whoever is cancelled here stays so.
            await to_the_end(self._supervisor)

    async def run(self, task: Task, workdir: Path, sink: TaskSink) -> TaskEnd:
        """Run one task to its end. Cancelling this coroutine cancels the task.

        Raises:
            EngineUnavailable: the engine is not ready.
        """
        if self._host is None or not self.ready:
            raise EngineUnavailable(f"The engine {self._engine!r} is being started again.")
        return await self._host.tasks.run(task, workdir, sink)

    def cancel(self, sink: TaskSink, grace_s: float = DEFAULT_CANCEL_GRACE_S) -> None:
        """Have the task of a sink stop at its next step.

        One that has not stopped after `grace_s` is given up, and its process is killed as soon as no other task needs
        it; until then it takes no more.
        """
        if self._host is not None:
            self._host.tasks.cancel(sink, grace_s)

    async def give_room(self, device: str, wanted_bytes: int, limit_s: float) -> int:
        """Have the engine free what it keeps unused on a device; return the bytes freed.

        0 also when it has no process, dies, or has not answered after `limit_s`.
        """
        host = self._host
        if host is None or self._info is None:
            return 0
        request_id = new_id()
        gift: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        host.gifts[request_id] = gift
        give = pb.GiveRoom(request_id=request_id, device=device, wanted_bytes=wanted_bytes)
        host.process.write(pb.HostRequest(give_room=give))
        try:
            async with asyncio.timeout(limit_s):
                return await gift
        except TimeoutError:
            log.warning("engine_gives_no_room", engine=self._name, device=device, limit_s=limit_s)
            return 0
        finally:
            host.gifts.pop(request_id, None)

    async def _supervise(self) -> None:
        loop, failures = asyncio.get_running_loop(), 0
        while not self._stopping.is_set():
            began, worked_before = loop.time(), self.tally.ends["finished"]
            await self._run_process()
            if self._first is not None and not self._first.done():
                sentence = f"The engine {self._engine!r} cannot be made: its process ended, {self.last_end}."
                self._first.set_exception(EngineUnavailable(sentence))
            if self._stopping.is_set() or (self._first is not None and self._first.exception() is not None):
                return
            is_sound = loop.time() - began >= _STABLE_S or self.tally.ends["finished"] > worked_before
            failures = 0 if is_sound else failures + 1
            pause_s = restart_pause_s(failures)
            self.restarts += 1
            log.warning("engine_restarts", engine=self._name, pause_s=pause_s)
            await woken(self._stopping, pause_s)

    async def _run_process(self) -> None:
        """Run one process to its end."""
        process = await EngineProcess.start(self._engine, self._environ, self._promises)
        tasks = EngineTasks(self._name, process, self._limits, self.tally, self._changed)
        host = self._host = _Host(process, tasks)
        process.write(pb.HostRequest(configure=pb.Configure(options_json=json.dumps(self._options))))
        if self._stopping.is_set():
            # stop() came while the process was being started, and found none to end.
            process.ask_to_end()
        try:
            async with asyncio.timeout(_MAKE_LIMIT_S) as limit:
                was_made = await self._take_first(host)
                limit.reschedule(None)
                while was_made and await self._take_next(host):
                    pass
        except (frames.FrameError, TimeoutError) as error:
            reason = str(error) or "it was not made in time"
            log.error("engine_speaks_garbage", engine=self._name, error=reason)
            process.kill(reason)
        finally:
            await self._reap(host)

    async def _reap(self, host: _Host) -> None:
        self._host, self._info = None, None
        self.last_end = await host.process.reap()
        if not self._stopping.is_set():
            log.error(
                "engine_ended",
                engine=self._name,
                how=self.last_end,
                tasks=len(host.tasks),
                last_lines=host.process.last_lines(),
            )
        host.tasks.end_all("The engine's process died while it worked.")
        for gift in host.gifts.values():
            if not gift.done():
                gift.set_result(0)
        for answer in host.answers:
            answer.cancel()
        await asyncio.gather(*host.answers, return_exceptions=True)
        self._changed()

    async def _take_first(self, host: _Host) -> bool:
        response = await host.process.read()
        if response is None:
            return False
        if response.WhichOneof("message") == "refused":
            log.error("engine_refused", engine=self._name, message=response.refused.message)
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
        self._changed()
        return True

    async def _take_next(self, host: _Host) -> bool:
        response = await host.process.read()
        if response is None:
            return False
        kind = response.WhichOneof("message")
        if kind is None or kind in ("ready", "refused"):
            raise frames.FrameError("the engine's process said nothing that is known")
        message = getattr(response, kind)
        match message:
            case pb.Loaded():
                host.loaded = tuple(LoadedModel(one.name, one.device, one.size_bytes) for one in message.models)
                told = message.device
                told_room = DeviceRoom(told.device, told.free_bytes, told.total_bytes)
                host.device_room = told_room if message.HasField("device") else None
            case pb.Counted():
                host.counted = dict(message.sums)
            case pb.RoomGiven():
                gift = host.gifts.get(message.request_id)
                if gift is not None and not gift.done():
                    gift.set_result(message.freed_bytes)
            case pb.NeedRoom():
                answer = asyncio.create_task(self._make_room(host, message), name="make room")
                host.answers.add(answer)
                answer.add_done_callback(host.answers.discard)
            case _:
                host.tasks.hear(kind, message)
        return True

    async def _make_room(self, host: _Host, need: pb.NeedRoom) -> None:
        freed = await self.on_need_room(need.device, need.wanted_bytes)
        made = pb.RoomMade(request_id=need.request_id, freed_bytes=freed)
        host.process.write(pb.HostRequest(room_made=made))

    def _changed(self) -> None:
        self.on_change()


def restart_pause_s(failures: int) -> float:
    """Return how long to wait before an engine is started again that died so often, young and without a finished task.

    The first time may be bad luck; after that it is 0.4 s, then twice as long each time, up to a minute.
    """
    return min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(failures, 20)) if failures > 1 else 0.0


def _nothing() -> None:
    pass


async def _no_room(device: str, wanted_bytes: int) -> int:
    return 0

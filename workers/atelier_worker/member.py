"""One worker of a process: one engine, one folder, one session with the router."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from enum import Enum
from typing import Any

from atelier_worker.connection import Connection, Refused
from atelier_worker.engine_client import EngineClient
from atelier_worker.engine_events import EngineInfo, EngineUnavailable
from atelier_worker.holdings import Holdings
from atelier_worker.journal import JournalUnusable
from atelier_worker.neighbours import Neighbours
from atelier_worker.outbox import Outbox
from atelier_worker.patience import Patience
from atelier_worker.plans import EnginePlan, ProcessPlan
from atelier_worker.session import Introduction
from atelier_worker.spool import Spool, open_spool
from atelier_worker.targets import Targets
from service_kit.errors import AtelierError
from service_kit.ids import new_id
from service_kit.settings import SettingsError
from service_kit.tasks import woken
from service_kit.telemetry import get_logger
from service_kit.version import __version__

_DEFAULT_WORKER_TYPES = ("chat", "sdxl", "wan")
_HAND_BACK_LIMIT_S = 5.0
# An engine that could not be made is tried again after so long: weights may be on a disk that comes later.
AGAIN_AFTER_S = 300.0

log = get_logger(__name__)


class State(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    UNUSABLE = "unusable"
    RUNNING = "running"
    DRAINING = "draining"
    REFUSED = "refused"
    FAULT = "fault"
    STOPPED = "stopped"


def worker_types_of(plan: EnginePlan, info: EngineInfo | None) -> tuple[str, ...]:
    """Return the pools that a worker serves: those of its plan, else of its engine (None: not made yet), else all."""
    return plan.worker_types or (info.worker_types if info is not None else ()) or _DEFAULT_WORKER_TYPES


def models_of(plan: EnginePlan, info: EngineInfo | None) -> tuple[str, ...]:
    """Return the models that a worker takes jobs for; none for every model of its pools."""
    return plan.models or (info.models if info is not None else ())


class Member:
    """Runs one worker until it is told to stop, whatever becomes of the others."""

    def __init__(
        self,
        process: ProcessPlan,
        plan: EnginePlan,
        neighbours: Neighbours,
        patience: Patience,
        on_change: Callable[[], None],
    ) -> None:
        """Prepare a worker; `on_change` hears when its state changes."""
        self.plan = plan
        self.state = State.STARTING
        self.reason = ""
        self.worker_id = plan.worker_name
        self.info: EngineInfo | None = None
        self.engine: EngineClient | None = None
        self.holdings: Holdings | None = None
        self.connection: Connection | None = None
        self.slots = 0
        self._process = process
        self._neighbours = neighbours
        self._patience = patience
        self._on_change = on_change

    @property
    def down(self) -> bool:
        """Whether it does nothing, and has not been told to."""
        return self.state in (State.UNUSABLE, State.REFUSED, State.FAULT)

    @property
    def connected(self) -> bool:
        """Whether a session with a router is held."""
        return self.connection is not None and self.connection.connected

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`. An engine or a journal that is of no use is tried again later; a refusal is final."""
        try:
            targets = Targets(self._process.connect)
            spool = await asyncio.to_thread(
                open_spool, self._process.folder, self.plan.worker_name, self.plan.spool_dir
            )
        except (SettingsError, AtelierError) as error:
            self._become(State.UNUSABLE, str(error))
            return
        except OSError as error:
            where = error.filename or self.plan.spool_dir or self._process.folder
            self._become(
                State.UNUSABLE,
                f"The worker's folder cannot be used: {where}: {error.strerror or error}. Mend that and start it "
                "again, or choose another folder (worker.spool_dir or ATELIER_WORKER_SPOOL_DIR).",
            )
            return
        try:
            while not stop.is_set():
                await self._try(targets, spool, stop)
        except Refused as error:
            self._become(State.REFUSED, str(error))
        except Exception:
            log.exception("worker_fault", engine=self.plan.name)
            self._become(State.FAULT, "A fault in the worker ended it; its log says where.")
        else:
            self._become(State.STOPPED)
        finally:
            spool.close()

    async def _try(self, targets: Targets, spool: Spool, stop: asyncio.Event) -> None:
        try:
            await self._run(targets, spool, stop)
        except (EngineUnavailable, JournalUnusable) as error:
            self._become(State.UNUSABLE, str(error))
            if not await woken(stop, AGAIN_AFTER_S):
                self._become(State.STARTING)

    async def _run(self, targets: Targets, spool: Spool, stop: asyncio.Event) -> None:
        # Before the engine, which may load for minutes, and for nothing where the journal is of no use.
        journal = spool.open_journal()
        outbox = Outbox(asyncio.get_running_loop().time)
        engine = self.engine = EngineClient(
            self.plan.engine,
            self.plan.options,
            name=self.plan.name,
            limits=self.plan.limits,
            # No worker can be called so.
            promises=self._process.folder / ".memory",
        )
        self._neighbours.join(engine)
        try:
            info = self.info = await _unless(stop, engine.start())
            if info is None:
                return
            self.slots = min(self.plan.slots or info.concurrency, info.concurrency)
            holdings = self.holdings = Holdings(
                engine=engine,
                engine_name=info.name,
                slots=self.slots,
                spool=spool,
                journal=journal,
                outbox=outbox,
                patience=self._patience,
                handover=self._process.handover,
            )
            engine.on_change = holdings.tell_credits
            introduction = self._introduce(spool, info)
            log.info("worker_starts", worker_id=introduction.worker_id, engine=info.name, slots=self.slots)
            self.connection = Connection(targets, self._process.key, introduction, holdings, outbox)
            self._become(State.RUNNING)
            try:
                await self._serve(self.connection, holdings, stop)
            finally:
                self.connection = None
                await holdings.close()
        finally:
            self._neighbours.leave(engine)
            await engine.stop()

    def _introduce(self, spool: Spool, info: EngineInfo) -> Introduction:
        self.worker_id = spool.worker_id(self.plan.worker_name)
        return Introduction(
            worker_id=self.worker_id,
            instance_id=new_id(),
            worker_types=worker_types_of(self.plan, info),
            models=models_of(self.plan, info),
            slots=self.slots,
            labels=self.plan.labels,
            version=__version__,
            stages=info.stages,
        )

    async def _serve(self, connection: Connection, holdings: Holdings, stop: asyncio.Event) -> None:
        connected = asyncio.create_task(connection.run(), name="connection")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait((connected, stopped), return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                self._become(State.DRAINING)
                await _drain(connection, connected, holdings, self._process.drain_grace)
                connection.leave()
            await connected
        finally:
            for task in (connected, stopped):
                task.cancel()
            await asyncio.gather(connected, stopped, return_exceptions=True)

    def _become(self, state: State, reason: str = "") -> None:
        if reason and reason != self.reason:
            several = len(self._process.engines) > 1
            sys.stderr.write(f"{self.plan.name}: {reason}\n" if several else f"{reason}\n")
            sys.stderr.flush()
        if state is State.RUNNING or reason:
            self.reason = reason
        self.state = state
        self._on_change()


async def _unless(stop: asyncio.Event, starting: Coroutine[Any, Any, EngineInfo]) -> EngineInfo | None:
    """Return what an engine says about itself once it is made, or None when `stop` was set before."""
    made = asyncio.create_task(starting, name="engine start")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((made, stopped), return_when=asyncio.FIRST_COMPLETED)
        return made.result() if made.done() else None
    finally:
        for task in (made, stopped):
            task.cancel()
        await asyncio.gather(made, stopped, return_exceptions=True)


async def _drain(connection: Connection, connected: asyncio.Task[None], holdings: Holdings, grace: timedelta) -> None:
    """Let the running stages end; what has not ended in time is handed back to be tried elsewhere."""
    holdings.drain()
    idle = asyncio.create_task(holdings.wait_idle(), name="idle")
    try:
        await asyncio.wait((connected, idle), timeout=grace.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
        if not idle.done() and not connected.done():
            holdings.stop_all()
            connection.hurry()
            await asyncio.wait((connected, idle), timeout=_HAND_BACK_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        idle.cancel()
        await asyncio.gather(idle, return_exceptions=True)

"""Routers beside an asset service, by one clock on one database; and workers of both kinds behind one face."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import asset_service.__main__
import router_service.__main__
from atelier.asset.v1 import asset_service_pb2_grpc, upload_service_pb2_grpc
from atelier.identity.v1 import identity_service_pb2_grpc
from atelier.router.v1 import job_pb2, router_service_pb2_grpc
from atelier.worker.v1 import worker_service_pb2 as worker
from atelier_worker.patience import Patience
from atelier_worker.worker import run_worker
from faults.ports import free_port
from router_service.sessions import Session
from service_kit import settings as kit_settings
from service_kit.channels import connect, key_tokens
from service_kit.clock import ManualClock
from tests.protocol.bare_worker import BareWorker
from tests.protocol.gated_engine import ENGINE, WAIT
from tests.router_service.support import Router
from tests.support.limits import SERVICE_LIMIT_S, closing_in_time
from tests.support.sqlite import put_migrated

LIMIT_S = 30.0
GRACE = timedelta(seconds=10)


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that nobody tells; a test that waits long has failed."""
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.002)


class Gate:
    """A named pipe at which the work on a job waits when its prompt says so."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self.prompt = f"{WAIT}{path}"

    async def reached(self) -> int:
        """Wait until somebody waits here. Returns a descriptor that lets it through."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    return os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
                except OSError:
                    await asyncio.sleep(0.002)

    async def open(self) -> None:
        """Wait until somebody waits here, and let it go on."""
        writer = await self.reached()
        os.write(writer, b"go")
        os.close(writer)


@dataclass
class System:
    """The parts that run. Each router is reached by its name, and comes back at the same address."""

    folder: Path
    clock: ManualClock
    flags: dict[str, str]
    stack: AsyncExitStack
    routers: dict[str, Router] = field(default_factory=dict)
    _listen: dict[str, str] = field(default_factory=dict)

    async def start_router(self, name: str = "a") -> Router:
        """Start a router, or start it again."""
        async with asyncio.timeout(SERVICE_LIMIT_S), AsyncExitStack() as stack:
            # Not one that the system may give away while nobody listens.
            listen = self._listen.setdefault(name, f"127.0.0.1:{free_port()}")
            flags = {**self.flags, "router.listen": listen}
            settings = kit_settings.for_tests(self.folder, **flags)
            service = await router_service.__main__.open_service(settings, stack, clock=self.clock)
            target = service.server.target
            raw = connect(target)
            stack.push_async_callback(raw.close)
            channel = connect(target, tokens=key_tokens(raw, service.rings.read_key_file("admin.key"), self.clock))
            stack.push_async_callback(channel.close)
            assets = connect(
                self.flags["router.asset_target"],
                tokens=key_tokens(raw, service.rings.read_key_file("admin.key"), self.clock),
            )
            stack.push_async_callback(assets.close)
            bare = connect(self.flags["router.asset_target"])
            stack.push_async_callback(bare.close)
            router = self.routers[name] = Router(
                service=service,
                clock=self.clock,
                target=target,
                jobs=router_service_pb2_grpc.RouterServiceStub(channel),
                assets=asset_service_pb2_grpc.AssetServiceStub(assets),
                uploads=upload_service_pb2_grpc.UploadServiceStub(bare),
                uploads_of_admin=upload_service_pb2_grpc.UploadServiceStub(assets),
                identities=identity_service_pb2_grpc.IdentityServiceStub(channel),
                stack=stack.pop_all(),
            )
            self.stack.push_async_callback(router.stack.aclose)
        return router

    async def stop_router(self, name: str = "a") -> None:
        """Stop a router as SIGTERM does."""
        async with asyncio.timeout(SERVICE_LIMIT_S):
            await self.routers.pop(name).stack.aclose()

    async def subject_connected(self) -> None:
        """Wait until the worker that is tested has a session; its engine may take its time to start."""
        await until(lambda: any(session.worker.holder.endswith("/subject") for session in self._sessions()))

    def _sessions(self) -> list[Session]:
        return [session for router in self.routers.values() for session in router.service.sessions]

    def key(self) -> str:
        """Return the workers' key."""
        return (self.folder / "keys" / "worker.key").read_text("utf-8").strip()

    async def job(self, job_id: str) -> job_pb2.Job:
        """Return a job, from any router."""
        return await next(iter(self.routers.values())).job(job_id)


@asynccontextmanager
async def running_system(folder: Path, database_url: str = "", **flags: str) -> AsyncIterator[System]:
    """Run an asset service, and whatever routers a test starts."""
    clock = ManualClock(datetime.now(UTC))
    async with closing_in_time() as stack:
        flags = {"core.database_url": database_url, **flags}
        settings = kit_settings.for_tests(folder, **{"asset.fill_renditions": False, **flags})
        async with asyncio.timeout(SERVICE_LIMIT_S):
            await put_migrated(settings, "asset", "router")
            assets = await asset_service.__main__.open_service(settings, stack, clock=clock)
        flags["router.asset_target"] = assets.server.target
        yield System(folder, clock, flags, stack)


class Subject(Protocol):
    """A worker of one slot that a test starts and ends. Its name is `subject`."""

    async def start(self, system: System, *connect: str, grace: timedelta = ...) -> None:
        """Start it and wait until it has connected to one of these addresses. `grace` is what it has to end."""

    def go_to(self, connect: str) -> None:
        """Have it use another address from its next session on, unless it knows it already."""

    def drain(self) -> None:
        """Ask it to end, as SIGTERM does."""

    async def ended(self) -> None:
        """Wait until it has ended in peace."""

    async def kill(self) -> None:
        """End it at once."""


class BareSubject:
    """The worker on bare stubs."""

    def __init__(self, worker_class: type[BareWorker] = BareWorker) -> None:
        self._class = type("GatedBareWorker", (_Gated, worker_class), {})

    async def start(self, system: System, *connect: str, grace: timedelta = GRACE) -> None:
        """Start it."""
        self._grace = grace
        self._worker: BareWorker = self._class(connect[0], system.key(), "subject")
        self._task = asyncio.create_task(self._worker.run())
        await system.subject_connected()

    def go_to(self, connect: str) -> None:
        """Use another address."""
        self._worker.target = connect

    def drain(self) -> None:
        """Drain."""
        self._worker.drain(self._grace.total_seconds())

    async def ended(self) -> None:
        """Wait for its end."""
        async with asyncio.timeout(LIMIT_S):
            await self._task

    async def kill(self) -> None:
        """End it."""
        tasks = [self._task, *filter(None, [self._worker.task])]
        for task in tasks:
            task.cancel()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*tasks, return_exceptions=True)


class _Gated:
    """Holds a bare worker, of whichever contracts, at the gate of a prompt."""

    async def make(self, lease: worker.Lease) -> dict[str, Any]:
        if lease.spec.prompt.startswith(WAIT):
            gate = os.open(lease.spec.prompt.removeprefix(WAIT), os.O_RDONLY | os.O_NONBLOCK)
            try:
                while not _read(gate):  # noqa: ASYNC110 - a pipe
                    await asyncio.sleep(0.002)
            finally:
                os.close(gate)
        made: dict[str, Any] = await super().make(lease)  # type: ignore[misc]
        return made


class RuntimeSubject:
    """The worker that is shipped, in this process, with an engine in a child process."""

    async def start(self, system: System, *connect: str, grace: timedelta = GRACE) -> None:
        """Start it."""
        given: dict[str, object] = {
            "worker__connect": ",".join(connect),
            "worker__name": "subject",
            "worker__engine": ENGINE,
            "worker__slots": 1,
            "worker__drain_grace": grace,
        }
        self._stop = asyncio.Event()
        self._settings = kit_settings.for_tests(system.folder, **given)
        patience = Patience(timedelta(seconds=10), first_pause_s=0.001)
        self._task = asyncio.create_task(run_worker(self._settings, stop=self._stop, patience=patience))
        await system.subject_connected()

    def go_to(self, connect: str) -> None:
        """It goes through its addresses by itself."""

    def drain(self) -> None:
        """Drain."""
        self._stop.set()

    async def ended(self) -> None:
        """Wait for its end."""
        async with asyncio.timeout(LIMIT_S):
            assert await self._task == 0

    async def kill(self) -> None:
        """End it."""
        self._task.cancel()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(self._task, return_exceptions=True)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1)
    except BlockingIOError:
        return b""

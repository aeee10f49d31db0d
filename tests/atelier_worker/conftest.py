"""A router for each test, and workers that end with it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from atelier_worker.patience import Patience
from atelier_worker.worker import run_worker
from service_kit.settings import Settings, for_tests
from tests.atelier_worker.fake_router import KEY, LIMIT_S, FakeRouter, within
from tests.atelier_worker.scripted_engine import ENGINE

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _engines_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "workers")]))


@pytest.fixture
async def router() -> AsyncIterator[FakeRouter]:
    fake = FakeRouter()
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()


class RunningWorker:
    """A worker in this process, with its engine in a real child process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stop = asyncio.Event()
        patience = Patience(timedelta(seconds=10), first_pause_s=0.001)
        running = run_worker(settings, stop=self._stop, patience=patience)
        self.task = asyncio.create_task(running)

    def drain(self) -> None:
        """Ask it to end, as SIGTERM does."""
        self._stop.set()

    async def exit_code(self) -> int:
        """Wait for its end."""
        code: int = await within(asyncio.shield(self.task))
        return code

    async def kill(self) -> None:
        """End it without ceremony."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


StartWorker = Callable[..., Awaitable[RunningWorker]]


@pytest.fixture
async def start_worker(tmp_path: Path, router: FakeRouter) -> AsyncIterator[StartWorker]:
    async with AsyncExitStack() as stack:

        async def start(*, drain_grace: timedelta = timedelta(seconds=5), **changes: object) -> RunningWorker:
            given = {"worker__connect": router.target, "worker__key": KEY, "worker__engine": ENGINE, "worker__slots": 4}
            given["worker__drain_grace"] = f"{drain_grace.total_seconds():g}s"
            worker = RunningWorker(for_tests(tmp_path, **{**given, **changes}))
            stack.push_async_callback(worker.kill)
            return worker

        yield start


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[str], Path]:
    """Make a named pipe at which the scripted engine waits."""

    def make(name: str) -> Path:
        path = tmp_path / f"gate-{name}"
        os.mkfifo(path)
        return path

    return make


def files(folder: Path, pattern: str) -> list[str]:
    """Return the names of the files below a folder that match."""
    return [file.name for file in folder.glob(pattern)]


async def open_gate(path: Path) -> int:
    """Wait until somebody reads from a named pipe, and return a descriptor that writes to it."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                # Opening it in a thread would block beyond the end of a test that has failed.
                if error.errno != errno.ENXIO:
                    raise
            await asyncio.sleep(0.001)


async def pass_gate(path: Path) -> None:
    """Wait until the engine is at the gate, and let it go on."""
    writer = await open_gate(path)
    os.write(writer, b"go")
    os.close(writer)

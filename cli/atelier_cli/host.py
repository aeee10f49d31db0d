"""Composes services by module name in one event loop, each told where the earlier ones are."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from atelier_cli.exits import INTERRUPTED, complain

if TYPE_CHECKING:
    from service_kit.in_process.server import InProcessServer
    from service_kit.settings import Settings

STOP_SECONDS = 10.0

PACKAGES: Mapping[str, str] = {
    "asset": "asset_service",
    "router": "router_service",
    "library": "library_service",
    "gateway": "gateway",
}
"""The services, in the order in which they are started."""

_TOLD: Mapping[str, tuple[str, ...]] = {
    "asset": ("router.asset_target", "library.asset_target", "gateway.asset_target"),
    "router": ("library.identity_target", "gateway.router_target", "worker.connect"),
    "library": ("gateway.library_target",),
    "gateway": (),
}
"""The settings that follow from where a service listens."""


class Running(Protocol):
    """A service that was started: `target` is its host:port."""

    @property
    def target(self) -> str:
        """Where it listens, as host:port."""
        ...

    @property
    def stop(self) -> Callable[[], Awaitable[None]]:
        """Ends it."""
        ...

    @property
    def near(self) -> InProcessServer | None:
        """Serves the calls of this process; None where there is nothing to call."""
        ...


async def start_service(name: str, settings: Settings, near: Mapping[str, InProcessServer] | None = None) -> Running:
    """Start one service; returns when it is ready to serve. What it calls of `near` it calls without gRPC."""
    from service_kit.process import collect_rarely

    module = importlib.import_module(f"{PACKAGES[name]}.__main__")
    running: Running = await module.start(settings, near or {})
    collect_rarely()
    return running


class Host:
    """All services of one machine."""

    def __init__(self, load: Callable[[Mapping[str, str]], Settings], flags: Mapping[str, str]) -> None:
        """Prepare; `load` resolves the settings with flags that win."""
        self._load, self._flags = load, dict(flags)
        self._running: list[tuple[str, Running]] = []

    @property
    def targets(self) -> dict[str, str]:
        """Where each service listens."""
        return {name: running.target for name, running in self._running}

    @property
    def settings(self) -> Settings:
        """The settings with all targets that are known."""
        return self._load(self._flags)

    async def start(self) -> None:
        """Start the services in order. What was started is in `targets`, also when a later one fails."""
        for name in PACKAGES:
            near = {running.target: running.near for _, running in self._running if running.near is not None}
            running = await start_service(name, self.settings, near)
            self._running.append((name, running))
            self._flags.update(dict.fromkeys(self._told(name), running.target))

    def _told(self, name: str) -> list[str]:
        """Return the settings to fill in: those that the person has not set, unless the port is only known now."""
        settings = self.settings
        any_port = settings.value(f"{name}.listen").endswith(":0")
        return [setting for setting in _TOLD[name] if any_port or setting not in settings.sources]

    async def stop(self, *names: str) -> None:
        """Stop these services, or all, the last started first; one that hangs does not keep the others."""
        from service_kit.tasks import in_time

        failures: list[Exception] = []
        for name, running in reversed(list(self._running)):
            if names and name not in names:
                continue
            self._running.remove((name, running))
            try:
                if not await in_time(running.stop(), STOP_SECONDS, name):
                    complain(f"The {name} service did not stop within {STOP_SECONDS:g} s.")
            except Exception as error:  # noqa: BLE001 - raised below, when the others have stopped
                failures.append(error)
        if failures:
            raise ExceptionGroup("services failed to stop", failures)


@contextlib.asynccontextmanager
async def interruptible(on_force: Callable[[], None]) -> AsyncIterator[asyncio.Event]:
    """Give an event that SIGINT and SIGTERM set. A second signal calls `on_force` and ends the process at once."""
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            on_force()
            complain("Forced.")
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stopping
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def unless(stopping: asyncio.Event, work: Awaitable[None]) -> bool:
    """Do some work unless a signal comes first; returns whether it was done."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        await task
        return True
    finally:
        for future in (task, waiting):
            future.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)

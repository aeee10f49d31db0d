"""One part as a process of its own: settings, the log, signals, and a sentence when it cannot start."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from service_kit import crash
from service_kit.errors import AtelierError
from service_kit.server import Running
from service_kit.settings import Settings, SettingsError, load
from service_kit.tasks import in_time
from service_kit.telemetry import configure_logging

EXIT_CANNOT_START = 2
EXIT_NOT_IN_TIME = 3
STOP_LIMIT_S = 40.0
# The youngest objects are looked through after so many new ones; Python's own 700 comes several times in each request.
_NEW_OBJECTS = 50_000


def run(start: Callable[[Settings], Awaitable[Running]]) -> None:
    """Start a part and let it serve until SIGINT or SIGTERM. Exits with 2 and one sentence when it cannot start."""
    try:
        settings = load(environ=os.environ)
        configure_logging(settings.core.log_level, settings.core.log_format)
        crash.arm(settings.core.crash_point)
    except ValueError as error:
        _give_up(error)
    try:
        asyncio.run(_serve(start, settings))
    except (SettingsError, AtelierError) as error:
        _give_up(error)


def collect_rarely() -> None:
    """Spend less on looking for cycles, once a part has started: a router takes a tenth less time for a job.

    What was imported and wired lives as long as the process, and is not looked at again. What requests leave behind
    is freed by counting references; the few cycles among it may wait.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 50)


async def _serve(start: Callable[[Settings], Awaitable[Running]], settings: Settings) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Before the start: who is asked to end while he starts ends in order as well.
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    running = await start(settings)
    collect_rarely()
    try:
        await asked.wait()
    finally:
        if not await in_time(running.stop(), STOP_LIMIT_S, running.name):
            # Whatever holds it up would hold up the end of the event loop as well. Nothing that was promised is lost.
            sys.stderr.write(f"{running.name} did not stop within {STOP_LIMIT_S:g} s; its log says what still ran.\n")
            sys.stderr.flush()
            os._exit(EXIT_NOT_IN_TIME)


def _give_up(error: Exception) -> NoReturn:
    sys.stderr.write(f"{error}\n")
    sys.exit(EXIT_CANNOT_START)

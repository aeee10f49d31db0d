"""`python -m atelier_worker`: one worker, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from atelier_worker.worker import EXIT_USAGE, run_worker
from service_kit import crash
from service_kit.settings import Settings, load
from service_kit.telemetry import configure_logging


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            # Asked twice: whoever asks does not want to wait. Leases run out by themselves; outcomes are spooled.
            os._exit(128 + signal.SIGTERM)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return await run_worker(settings, stop=stop)


def main() -> None:
    """Run a worker from the environment's settings and exit with its code."""
    try:
        settings = load(environ=os.environ)
        configure_logging(settings.core.log_level, settings.core.log_format)
        crash.arm(settings.core.crash_point)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_USAGE)
    sys.exit(asyncio.run(_run(settings)))


if __name__ == "__main__":
    main()

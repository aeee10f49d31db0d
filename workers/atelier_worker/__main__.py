"""`python -m atelier_worker [--config worker.toml]`: a process of workers, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from atelier_worker.plans import ProcessPlan, plan_of_settings
from atelier_worker.worker import EXIT_USAGE, run_plan
from atelier_worker.worker_file import read_worker_file
from service_kit import crash
from service_kit.settings import SettingsError, load
from service_kit.telemetry import configure_logging


async def _run(plan: ProcessPlan) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            # Asked twice: whoever asks does not want to wait. Leases run out by themselves; outcomes are spooled.
            os._exit(128 + signal.SIGTERM)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return await run_plan(plan, stop=stop)


def main(arguments: list[str] | None = None) -> None:
    """Run the workers of a file, or the one of the environment's settings, and exit with the process's code."""
    parser = argparse.ArgumentParser(prog="python -m atelier_worker", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE", help="a worker.toml; without it the settings are used")
    file: Path | None = parser.parse_args(arguments).config
    try:
        settings = load(environ=os.environ)
        configure_logging(settings.core.log_level, settings.core.log_format)
        crash.arm(settings.core.crash_point)
        plan = plan_of_settings(settings) if file is None else read_worker_file(file, settings)
    except (ValueError, SettingsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_USAGE)
    sys.exit(asyncio.run(_run(plan)))


if __name__ == "__main__":
    main()

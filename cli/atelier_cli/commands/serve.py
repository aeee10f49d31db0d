"""`atelier serve` and `atelier worker`: one part alone."""

from __future__ import annotations

import asyncio
import importlib
import os
from typing import TYPE_CHECKING

from atelier_cli import ports
from atelier_cli.context import Context
from atelier_cli.exits import OK, UsageError, complain
from atelier_cli.host import Running, interruptible, start_service, unless

if TYPE_CHECKING:
    from service_kit.settings import Settings


def serve(context: Context) -> int:
    """Start one service alone."""
    from service_kit import crash
    from service_kit.settings import SETTINGS
    from service_kit.telemetry import configure_logging

    name, settings = context.arguments.service, context.settings
    setting = next(row for row in SETTINGS if row.name == f"{name}.listen")
    ports.check_free(settings.value(setting.name), setting.name, setting.env)
    configure_logging(settings.core.log_level, settings.core.log_format)
    crash.arm(settings.core.crash_point)
    return asyncio.run(_serve(context, name, settings))


async def _serve(context: Context, name: str, settings: Settings) -> int:
    running: Running | None = None

    async def begin() -> None:
        nonlocal running
        running = await start_service(name, settings)
        context.print(f"The {name} service listens on {running.target}; stop it with Ctrl-C.")

    async with interruptible(lambda: None) as stopping:
        try:
            if await unless(stopping, begin()):
                await stopping.wait()
            complain("Stopping …")
        finally:
            if running is not None:
                await running.stop()
    return OK


def worker(context: Context) -> int:
    """Run a worker in this process."""
    from pathlib import Path

    arguments = context.arguments
    flags = {
        "ATELIER_WORKER_CONNECT": arguments.connect,
        "ATELIER_WORKER_ENGINE": arguments.engine,
        "ATELIER_WORKER_WORKER_TYPES": arguments.types,
        "ATELIER_WORKER_SLOTS": arguments.slots,
        "ATELIER_WORKER_NAME": arguments.name,
        "ATELIER_DATA_DIR": getattr(arguments, "data_dir", None),
        "ATELIER_CONFIG": getattr(arguments, "config", None),
    }
    os.environ.update({name: value for name, value in flags.items() if value is not None})
    _take_settings(context)
    key_file, key = getattr(arguments, "key_file", None), getattr(arguments, "key", None)
    if key_file or key:
        os.environ.pop("ATELIER_WORKER_KEY", None)
        os.environ.pop("ATELIER_WORKER_KEY_FILE", None)
    if key_file:
        if not Path(key_file).expanduser().is_file():
            raise UsageError(f"there is no key file {key_file}. `atelier up` prints the path of the worker's key.")
        os.environ["ATELIER_WORKER_KEY_FILE"] = str(Path(key_file).expanduser())
    elif key:
        os.environ["ATELIER_WORKER_KEY"] = key
    importlib.import_module("atelier_worker.__main__").main()
    return OK


def _take_settings(context: Context) -> None:
    """Hand the settings of --set on, by the names of their variables."""
    from service_kit.settings import SETTINGS

    envs = {row.name: row.env for row in SETTINGS}
    given = {name: text for name, text in context.flags.items() if name in envs and not name.startswith("client.")}
    context.load()  # An unknown name or an unusable value ends here, with a sentence.
    os.environ.update({envs[name]: text for name, text in given.items()})

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
    from pathlib import Path

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
    """Run workers in this process: those of a worker.toml, or the one of the settings and flags."""
    from pathlib import Path

    arguments = context.arguments
    named = getattr(arguments, "config", None)
    file = Path(named) if named and is_worker_file(Path(named)) else None
    flags = {
        "ATELIER_WORKER_CONNECT": arguments.connect,
        "ATELIER_WORKER_ENGINE": arguments.engine,
        "ATELIER_WORKER_WORKER_TYPES": arguments.types,
        "ATELIER_WORKER_SLOTS": arguments.slots,
        "ATELIER_WORKER_NAME": arguments.name,
    }
    if file is not None:
        _refuse_beside_a_file(context, file)
    flags |= {
        "ATELIER_DATA_DIR": getattr(arguments, "data_dir", None),
        "ATELIER_CONFIG": None if file is not None else named,
    }
    os.environ.update({name: value for name, value in flags.items() if value is not None})
    _take_settings(context, from_file=file is None)
    _take_key(context)
    main = importlib.import_module("atelier_worker.__main__").main
    main(["--config", str(file)] if file is not None else [])
    return OK


def is_worker_file(file: Path) -> bool:
    """Tell whether a file that `--config` names is one for workers: it has engines, or is called worker.toml.

    Any other is a file of settings. One that cannot be read is left to whoever reads it then.
    """
    import tomllib

    try:
        return file.name == "worker.toml" or "engine" in tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False


def _refuse_beside_a_file(context: Context, file: Path) -> None:
    """Raise UsageError for a flag whose place is in the file: of several engines, it would not be clear whose."""
    for flag in ("connect", "engine", "types", "slots", "name"):
        if getattr(context.arguments, flag) is not None:
            raise UsageError(f"--{flag} does not go with {file.name}: write it there.")


def _take_key(context: Context) -> None:
    from pathlib import Path

    key_file, key = getattr(context.arguments, "key_file", None), getattr(context.arguments, "key", None)
    if key_file or key:
        os.environ.pop("ATELIER_WORKER_KEY", None)
        os.environ.pop("ATELIER_WORKER_KEY_FILE", None)
    if key_file:
        if not Path(key_file).expanduser().is_file():
            raise UsageError(f"there is no key file {key_file}. `atelier up` prints the path of the worker's key.")
        os.environ["ATELIER_WORKER_KEY_FILE"] = str(Path(key_file).expanduser())
    elif key:
        os.environ["ATELIER_WORKER_KEY"] = key


def _take_settings(context: Context, *, from_file: bool) -> None:
    """Hand the settings of --set on, by the names of their variables."""
    from service_kit.settings import SETTINGS, load

    envs = {row.name: row.env for row in SETTINGS}
    given = {name: text for name, text in context.flags.items() if name in envs and not name.startswith("client.")}
    # An unknown name or an unusable value ends here, with a sentence.
    load(context.flags, os.environ, context.config if from_file else None)
    os.environ.update({envs[name]: text for name, text in given.items()})

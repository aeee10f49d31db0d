"""`atelier up`: everything on this machine, from one command, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from atelier_cli import ports
from atelier_cli.context import Context, public_url
from atelier_cli.exits import OK, UsageError, complain
from atelier_cli.host import PACKAGES, Host, interruptible, unless
from atelier_cli.worker_process import WorkerProcess

if TYPE_CHECKING:
    from service_kit.settings import Settings

WORKER_GRACE_SECONDS = 5.0
_CODE_SECONDS = 10.0


def up(context: Context) -> int:
    """Start everything and keep it running."""
    flags = prepare(context)
    return asyncio.run(_run(context, flags))


def prepare(context: Context) -> dict[str, str]:
    """Check what can be known before anything is started, and return the flags that follow.

    Raises:
        UsageError, SettingsError: with a sentence that says what to change.
    """
    from service_kit import crash
    from service_kit.settings import SETTINGS
    from service_kit.telemetry import configure_logging

    settings = context.settings
    envs = {setting.name: setting.env for setting in SETTINGS}
    for name in PACKAGES:
        ports.check_free(settings.value(f"{name}.listen"), f"{name}.listen", envs[f"{name}.listen"])
    _check_data_dir(settings)
    # On a terminal the log is for trouble only, unless somebody asked for more.
    quiet = sys.stderr.isatty() and "core.log_level" not in settings.sources
    level = "warning" if quiet else settings.core.log_level
    configure_logging(level, settings.core.log_format)
    crash.arm(settings.core.crash_point)
    return _addresses(settings) | {"core.log_level": level}


def _check_data_dir(settings: Settings) -> None:
    folder = settings.core.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the data folder {folder} cannot be made: {error.strerror}. Choose another with ATELIER_DATA_DIR."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"the data folder {folder} cannot be written. Choose another with ATELIER_DATA_DIR.")


def _addresses(settings: Settings) -> dict[str, str]:
    """Return the flags for the gateway's port and public address: signed URLs need it before the gateway is there."""
    host, port = ports.split(settings.gateway.listen)
    flags = {"core.data_dir": str(settings.core.data_dir.resolve())}
    if port == 0:
        bracketed = f"[{host}]" if ":" in host else host
        flags["gateway.listen"] = f"{bracketed}:{ports.free_port(host)}"
    return flags


def _with_public_url(context: Context, flags: Mapping[str, str]) -> Settings:
    settings = context.load(flags)
    return context.load({**flags, "core.public_url": public_url(settings)})


async def _run(context: Context, flags: Mapping[str, str]) -> int:
    host = Host(lambda told: _with_public_url(context, told), flags)
    worker: WorkerProcess | None = None

    def force() -> None:
        if worker is not None:
            worker.kill()

    async with interruptible(force) as stopping:
        try:
            if await unless(stopping, _migrate(host.settings)) and await unless(stopping, host.start()):
                if not context.arguments.no_worker:
                    worker = WorkerProcess(worker_environ(host.settings), complain)
                    worker.start()
                await unless(stopping, announce(context, host))
                await stopping.wait()
            complain("Stopping …")
        finally:
            await host.stop("gateway", "library")
            if worker is not None:
                await worker.stop(WORKER_GRACE_SECONDS)
            await host.stop()
    return OK


async def _migrate(settings: Settings) -> None:
    """Bring schemas on PostgreSQL up to date, for which a service alone would wait. SQLite files see to themselves."""
    from atelier_cli.commands.care import MIGRATED, migrate_services

    shared = bool(settings.core.database_url)
    await migrate_services(settings, [name for name in MIGRATED if shared or settings.value(f"{name}.database_url")])


def worker_environ(settings: Settings) -> dict[str, str]:
    """Return the environment of the worker: this one, the flags of this command, and where the router is."""
    from service_kit.settings import SETTINGS, to_text

    environ = dict(os.environ)
    for row in SETTINGS:
        if settings.sources.get(row.name) != "flag":
            continue
        value = settings.value(row.name)
        environ[row.env] = value.reveal() if row.secret else to_text(value)
        environ.pop(f"{row.env}_FILE", None)
    if "worker.key" not in settings.sources:
        environ["ATELIER_WORKER_KEY_FILE"] = str(settings.keys_dir / "worker.key")
    # The services' databases and crash points are not the worker's.
    for row in SETTINGS:
        if row.key == "database_url":
            environ.pop(row.env, None)
            environ.pop(f"{row.env}_FILE", None)
    environ.pop("ATELIER_CRASH_POINT", None)
    return environ


async def announce(context: Context, host: Host) -> None:
    """Print where everything is; to a terminal also an address that signs a browser in."""
    settings, targets = host.settings, host.targets
    url = settings.core.public_url
    if sys.stdout.isatty():
        context.print(f"Open  {await sign_in_address(settings, targets['gateway'])}")
    worker_key = settings.keys_dir / "worker.key"
    if context.json:
        context.print_json({"url": url, "targets": targets, "data_dir": str(settings.core.data_dir)})
        return
    context.print(f"Atelier is up at {url}; stop it with Ctrl-C.")
    context.print(f"  gRPC      router {targets['router']}, asset {targets['asset']}, library {targets['library']}")
    context.print(f"  data      {settings.core.data_dir}")
    context.print(f"  your key  {settings.keys_dir / 'admin.key'}")
    context.print(f"  attach another worker: atelier worker --connect {targets['router']} --key-file {worker_key}")


async def sign_in_address(settings: Settings, gateway_target: str) -> str:
    """Return the page's address with a code that works once; without a code when none could be made."""
    from atelier_client import AsyncAtelier, AtelierError

    scheme = "https" if settings.gateway.tls_cert else "http"
    key = (settings.keys_dir / "admin.key").read_text("utf-8").strip()
    try:
        async with asyncio.timeout(_CODE_SECONDS), AsyncAtelier(f"{scheme}://{gateway_target}", key) as client:
            return f"{settings.core.public_url}/#code={(await client.create_sign_in_code()).code}"
    except (AtelierError, TimeoutError) as error:
        complain(f"No sign-in code could be made: {error}")
        return settings.core.public_url

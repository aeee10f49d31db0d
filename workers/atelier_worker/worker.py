"""The composition root of a worker: settings in, a worker that runs until it is told to stop, an exit code out."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta

from atelier_worker.connection import Connection, Refused
from atelier_worker.engine_client import EngineClient
from atelier_worker.engine_events import EngineInfo, EngineUnavailable
from atelier_worker.holdings import Holdings
from atelier_worker.outbox import Outbox
from atelier_worker.session import Introduction
from atelier_worker.spool import Spool, open_spool
from atelier_worker.targets import Targets
from atelier_worker.uploads import Patience
from service_kit.errors import AtelierError
from service_kit.ids import new_id
from service_kit.secret import Secret
from service_kit.settings import SETTINGS, Settings, SettingsError, to_text
from service_kit.telemetry import get_logger
from service_kit.version import __version__

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_REFUSED = 4
DEFAULT_WORKER_TYPES = ("chat", "sdxl", "wan")
_HAND_BACK_LIMIT_S = 2.0
_MOST_LABELS = 32
_LONGEST_LABEL = 100

log = get_logger(__name__)


async def run_worker(
    settings: Settings,
    *,
    stop: asyncio.Event,
    patience: Patience | None = None,
) -> int:
    """Run a worker until `stop` is set; then let what runs finish within the grace and hand back the rest.

    Returns:
        0 after a stop; 2 when address, key, name or engine cannot be used; 4 when the router refuses the worker. A
        router that cannot be reached is tried for ever. Why it ended is one sentence on standard error.
    """
    try:
        targets = Targets(settings.worker.connect)
        labels = _labels(settings.worker.labels)
        key = _key(settings)
        spool = await asyncio.to_thread(open_spool, settings)
    except (SettingsError, AtelierError, OSError) as error:
        return _say(str(error), EXIT_USAGE)
    try:
        return await _run(settings, targets, labels, key, spool, stop, patience or Patience())
    except EngineUnavailable as error:
        return _say(str(error), EXIT_USAGE)
    except Refused as error:
        return _say(str(error), EXIT_REFUSED)
    finally:
        spool.close()


async def _run(
    settings: Settings,
    targets: Targets,
    labels: Mapping[str, str],
    key: Secret,
    spool: Spool,
    stop: asyncio.Event,
    patience: Patience,
) -> int:
    outbox = Outbox(asyncio.get_running_loop().time)
    engine = EngineClient(settings.worker.engine, _engine_options(settings))
    try:
        info = await engine.start()
        slots = min(settings.worker.slots, info.concurrency)
        holdings = Holdings(
            engine=engine, engine_name=info.name, slots=slots, spool=spool, outbox=outbox, patience=patience
        )
        engine.on_change = holdings.tell_credits
        introduction = _introduction(settings, spool, info, slots, labels)
        log.info("worker_starts", worker_id=introduction.worker_id, engine=info.name, slots=slots)
        connection = Connection(targets, key, introduction, holdings, outbox)
        try:
            await _serve(connection, holdings, stop, settings.worker.drain_grace)
        finally:
            await holdings.close()
    finally:
        await engine.stop()
    return EXIT_OK


async def _serve(connection: Connection, holdings: Holdings, stop: asyncio.Event, drain_grace: timedelta) -> None:
    connected = asyncio.create_task(connection.run(), name="connection")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((connected, stopped), return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            await _drain(connected, holdings, drain_grace)
            connection.leave()
        await connected
    finally:
        for task in (connected, stopped):
            task.cancel()
        await asyncio.gather(connected, stopped, return_exceptions=True)


async def _drain(connected: asyncio.Task[None], holdings: Holdings, grace: timedelta) -> None:
    """Let the running stages end; what has not ended in time is handed back to be tried elsewhere."""
    holdings.drain()
    idle = asyncio.create_task(holdings.wait_idle(), name="idle")
    try:
        await asyncio.wait((connected, idle), timeout=grace.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
        if not idle.done() and not connected.done():
            holdings.stop_all()
            await asyncio.wait((connected, idle), timeout=_HAND_BACK_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        idle.cancel()
        await asyncio.gather(idle, return_exceptions=True)


def _introduction(
    settings: Settings, spool: Spool, info: EngineInfo, slots: int, labels: Mapping[str, str]
) -> Introduction:
    return Introduction(
        worker_id=spool.worker_id(settings.worker.name),
        instance_id=new_id(),
        worker_types=settings.worker.worker_types or info.worker_types or DEFAULT_WORKER_TYPES,
        models=settings.worker.models,
        slots=slots,
        labels=labels,
        version=__version__,
        stages=info.stages,
    )


def _labels(texts: Sequence[str]) -> dict[str, str]:
    """Return labels by name. Raises SettingsError for one that is not name=value, is too long, or is one too many."""
    labels: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (separator and name and len(text) <= _LONGEST_LABEL):
            raise SettingsError(
                f"worker.labels takes name=value of at most {_LONGEST_LABEL} characters, got {text[:_LONGEST_LABEL]!r}."
            )
        labels[name.strip()] = value.strip()
    if len(labels) > _MOST_LABELS:
        raise SettingsError(f"worker.labels takes at most {_MOST_LABELS} labels, got {len(labels)}.")
    return labels


def _key(settings: Settings) -> Secret:
    if settings.worker.slots < 1:
        raise SettingsError(f"worker.slots must be 1 or more, got {settings.worker.slots}.")
    if settings.worker.key:
        return settings.worker.key
    file = settings.keys_dir / "worker.key"
    with contextlib.suppress(FileNotFoundError):
        return Secret(file.read_text("utf-8").strip())
    raise SettingsError(
        f"There is no worker key: {file} does not exist. Name a key file with --key-file or ATELIER_WORKER_KEY_FILE; "
        "an operator makes a key with `atelier keys create --kind worker`."
    )


def _engine_options(settings: Settings) -> dict[str, str]:
    """Return the section of the settings that is named like the engine, as text; durations are seconds."""
    rows = [row for row in SETTINGS if row.section == settings.worker.engine and not row.secret]
    values = {row.key: settings.value(row.name) for row in rows}
    return {
        key: f"{value.total_seconds():g}" if isinstance(value, timedelta) else to_text(value)
        for key, value in values.items()
    }


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(sentence + "\n")
    return code

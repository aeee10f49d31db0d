"""What a process of workers is to run: one plan for the process, one for each engine; here made from the settings."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from atelier_worker.task_watch import Limits
from service_kit.secret import Secret
from service_kit.settings import SETTINGS, Settings, SettingsError, to_text

_MOST_LABELS = 32
_LONGEST_LABEL = 100
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """One worker: an engine, its folder, and how it is introduced to the router.

    `name` is for logs and people, `worker_name` the worker's (empty: its folder remembers one). Empty `worker_types`
    and `models`, and `slots` of None, are whatever the engine says.
    """

    name: str
    engine: str
    options: Mapping[str, object]
    worker_name: str
    spool_dir: str = ""
    worker_types: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    slots: int | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """A process: where its workers connect and with which key, and the engines. No `status`: no port for it.

    Files may be handed over in `handover`, if the asset service has the same folder there.
    """

    connect: str
    key: Secret
    drain_grace: timedelta
    folder: Path
    engines: tuple[EnginePlan, ...]
    status: str = ""
    insecure: bool = False
    handover: Path | None = None


def plan_of_settings(settings: Settings) -> ProcessPlan:
    """Return the plan of a worker without a file of its own: one engine.

    Raises:
        SettingsError: the labels, the slots or the key cannot be used.
    """
    mine = settings.worker
    if mine.slots < 1:
        raise SettingsError(f"worker.slots must be 1 or more, got {mine.slots}.")
    engine = EnginePlan(
        name=mine.engine,
        engine=mine.engine,
        options=_engine_options(settings),
        worker_name=mine.name,
        spool_dir=mine.spool_dir,
        worker_types=mine.worker_types,
        models=mine.models,
        slots=mine.slots,
        labels=_labels(mine.labels),
    )
    return ProcessPlan(
        connect=mine.connect,
        key=key_of(settings),
        drain_grace=mine.drain_grace,
        folder=settings.service_dir("worker"),
        handover=settings.handover_dir,
        engines=(engine,),
    )


def key_of(settings: Settings) -> Secret:
    """Return the worker's key, from the settings or the data folder. Raises SettingsError when there is none."""
    if settings.worker.key:
        return settings.worker.key
    file = settings.keys_dir / "worker.key"
    with contextlib.suppress(FileNotFoundError):
        return Secret(file.read_text("utf-8").strip())
    raise SettingsError(
        f"There is no worker key: {file} does not exist. Name a key file with --key-file or ATELIER_WORKER_KEY_FILE; "
        "an operator makes a key with `atelier keys create --kind worker`."
    )


def check_labels(labels: Mapping[str, str], where: str) -> None:
    """Raise SettingsError for labels that are too many or too long."""
    if len(labels) > _MOST_LABELS:
        raise SettingsError(f"{where} takes at most {_MOST_LABELS} labels, got {len(labels)}.")
    for name, value in labels.items():
        if not f"{name}{value}".isprintable():
            raise SettingsError(f"{where} takes labels without control characters, got {name[:_LONGEST_LABEL]!r}.")
        if len(f"{name}={value}") > _LONGEST_LABEL:
            raise SettingsError(
                f"{where} takes name=value of at most {_LONGEST_LABEL} characters, "
                f"got {f'{name}={value}'[:_LONGEST_LABEL]!r}."
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
    check_labels(labels, "worker.labels")
    return labels


def _engine_options(settings: Settings) -> dict[str, str]:
    """Return the section of the settings that is named like the engine, as text; durations are seconds."""
    rows = [row for row in SETTINGS if row.section == settings.worker.engine and not row.secret]
    values = {row.key: settings.value(row.name) for row in rows}
    return {
        key: f"{value.total_seconds():g}" if isinstance(value, timedelta) else to_text(value)
        for key, value in values.items()
    }

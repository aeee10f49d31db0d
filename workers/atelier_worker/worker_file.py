"""Reads worker.toml: one `[worker]` table and an `[[engine]]` table for each engine. Strict: nothing is passed over."""

from __future__ import annotations

import re
import socket
import tomllib
from collections.abc import Mapping
from datetime import date, time, timedelta
from pathlib import Path

from atelier_worker.engine_options import Options, OptionsError
from atelier_worker.plans import EnginePlan, ProcessPlan, check_labels, key_of
from atelier_worker.targets import Targets
from atelier_worker.task_watch import Limits
from service_kit.secret import Secret
from service_kit.settings import Settings, SettingsError
from service_kit.telemetry import get_logger

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST_NAME = 64
# Each is a thread in the engine's process.
_MOST_SLOTS = 256
# Each is a process.
_MOST_ENGINES = 64
_MOST_BYTES = 1 << 20
_MOST_KEY_BYTES = 4096
_DEEPEST = 16
_DRAIN_GRACE_S = 10.0
# Keys of an engine's table, at any depth, whose values are files; of `source` only what looks like one is.
_PATH_KEYS = frozenset({"template", "api_key_file", "config"})
_PATH_TABLES = frozenset({"loras"})
_SECRET_KEYS = frozenset({"api_key_file"})

log = get_logger(__name__)


def read_worker_file(file: Path, settings: Settings) -> ProcessPlan:
    """Return the plan that a file describes; what it leaves out of `[worker]` is taken from the settings.

    Raises:
        SettingsError: it cannot be read, or says something that is not understood; the message is a sentence with
            file, table, key and what is allowed.
    """
    document = _load(file)
    _check_values(file, document)
    try:
        top = Options(document, where=file.name)
        top.tables("engine")
        top.table("worker")
        top.done()
        return _plan(file, document, settings)
    except OptionsError as error:
        raise SettingsError(str(error)) from None


def _load(file: Path) -> dict[str, object]:
    try:
        text = _text(file, _MOST_BYTES)
    except FileNotFoundError:
        raise SettingsError(f"There is no file {file}; `atelier worker init` writes one.") from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise SettingsError(f"{file.name} cannot be used: {error}.") from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise _too_deep(file) from None
    except ValueError as error:
        raise SettingsError(f"{file.name} is not TOML: {error}.") from None


def _text(file: Path, most_bytes: int) -> str:
    """Return what a file holds, without the mark that some editors begin with.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than `most_bytes`, or no text; the message ends a sentence.
    """
    # Not all of it: it may be no regular file, and have no end.
    with file.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it takes at most {most_bytes} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None


def _check_values(file: Path, document: Mapping[str, object]) -> None:
    """Refuse what no option can be, before anybody asks for it: engines get their options as JSON."""
    level: list[tuple[str, object]] = list(document.items())
    for _ in range(_DEEPEST):
        inner: list[tuple[str, object]] = []
        for key, value in level:
            if isinstance(value, Mapping):
                inner += value.items()
            elif isinstance(value, list):
                inner += [(key, one) for one in value]
            elif isinstance(value, date | time):
                raise SettingsError(f'{file.name}: {_cut(key)} takes no date or time; write it as a text, in "…".')
            elif isinstance(value, str) and "\0" in value:
                raise SettingsError(f"{file.name}: {_cut(key)} takes no text with a NUL in it.")
        level = inner
    if level:
        raise _too_deep(file)


def _too_deep(file: Path) -> SettingsError:
    return SettingsError(f"{file.name} nests tables and lists deeper than {_DEEPEST}.")


def _cut(text: str) -> str:
    """Return a name as sentences have it: its control characters escaped, and not all of it when it is long."""
    shown = text if text.isprintable() else repr(text)[1:-1]
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[:_LONGEST_NAME]}…"


def _plan(file: Path, document: Mapping[str, object], settings: Settings) -> ProcessPlan:
    # `Options` refuses what is no table before this.
    worker = Options(_mapping(document.get("worker")), where=f"{file.name}, [worker]")
    connect = worker.text("connect", settings.worker.connect)
    key_file = worker.text("key_file", "")
    name = worker.text("name", "") or _host_name()
    labels = worker.text_table("labels")
    drain_grace = timedelta(seconds=worker.duration_s("drain_grace", _DRAIN_GRACE_S))
    status, insecure = worker.text("status", ""), worker.boolean("insecure", False)
    worker.done()
    _check_connect(file, connect)
    tables = document.get("engine")
    if not isinstance(tables, list) or not tables:
        raise SettingsError(f"{file.name} needs at least one [[engine]] table; `atelier worker init` writes one.")
    if len(tables) > _MOST_ENGINES:
        raise SettingsError(
            f"{file.name} takes at most {_MOST_ENGINES} [[engine]] tables, got {len(tables)}: each is a process. "
            "Divide them among several files."
        )
    engines = tuple(_engine(file, _mapping(table), number, name, labels) for number, table in enumerate(tables, 1))
    _check_names(file, [engine.name for engine in engines])
    return ProcessPlan(
        connect=connect,
        key=_key(file, key_file) if key_file else key_of(settings),
        drain_grace=drain_grace,
        folder=settings.service_dir("worker"),
        handover=settings.handover_dir,
        engines=engines,
        status=status,
        insecure=insecure,
    )


def _engine(file: Path, table: Mapping[str, object], number: int, worker: str, labels: Mapping[str, str]) -> EnginePlan:
    """Return the plan of one engine. Only the worker's own keys are read here; the engine refuses what it lacks."""
    called = table.get("name")
    where = f"{file.name}, [[engine]] {_cut(called) if isinstance(called, str) and called else number}"
    options = Options(table, where=where)
    name = options.text("name", "") or options.text("engine").rpartition(":")[2]
    worker_name = f"{worker}-{name}"
    if not name or not _NAME.fullmatch(worker_name):
        raise options.wrong(
            "name",
            f"makes the worker '{_cut(worker_name)}': together with the name in [worker] it takes 1 to {_LONGEST_NAME} "
            "letters, digits, dots, underscores and hyphens.",
        )
    all_labels = {**labels, **options.text_table("labels")}
    check_labels(all_labels, f"{where}: labels")
    limits = Limits()
    return EnginePlan(
        name=name,
        engine=options.text("engine"),
        options=_absolute(table, file.absolute().parent),
        worker_name=worker_name,
        worker_types=options.texts("worker_types"),
        slots=options.integer("slots", None, least=1, most=_MOST_SLOTS),
        labels=all_labels,
        limits=Limits(
            options.duration_s("task_deadline", limits.deadline_s),
            options.duration_s("stall_limit", limits.stall_s),
            options.duration_s("load_limit", limits.load_s),
        ),
    )


def _check_connect(file: Path, connect: str) -> None:
    """Raise SettingsError for no address, once for all workers: each dials for itself."""
    try:
        Targets(connect)
    except SettingsError as error:
        raise SettingsError(f"{file.name}: {error}") from None


def _check_names(file: Path, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{file.name} has {names.count(name)} engines named {name!r}: give each its own name.")


def _absolute(table: Mapping[str, object], folder: Path, *, are_files: bool = False) -> dict[str, object]:
    """Return the table with the paths in it absolute; they are relative to the folder of the file."""
    return {key: _absolute_value(key, value, folder, are_files) for key, value in table.items()}


def _absolute_value(key: str, value: object, folder: Path, is_file: bool) -> object:
    if isinstance(value, Mapping):
        return _absolute(value, folder, are_files=key in _PATH_TABLES)
    if isinstance(value, list):
        return [_absolute_value(key, one, folder, is_file) for one in value]
    if not isinstance(value, str) or not value:
        return value
    if key == "source":
        return _source(value, folder)
    if is_file or key in _PATH_KEYS:
        path = folder / _expanded(value)
        if key in _SECRET_KEYS:
            _warn_if_open(path)
        return str(path)
    return value


def _source(text: str, folder: Path) -> str:
    """Return a local source as an absolute path, and the id of a hub (`owner/name`) as it is.

    Local is what begins as a path does, and what is there: no id has more than one slash.
    """
    path = folder / _expanded(text)
    is_path = text.startswith((".", "/", "~")) or text.count("/") > 1 or ("://" not in text and _exists(path))
    return str(path) if is_path and "://" not in text else text


def _expanded(text: str) -> Path:
    """Return a path with `~` replaced; as it stands where nobody has such a home, and whoever opens it says so."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # Longer than any name of a file.
        return False


def _key(file: Path, named: str) -> Secret:
    path = file.absolute().parent / _expanded(named)
    try:
        key = _text(path, _MOST_KEY_BYTES).strip()
    except FileNotFoundError:
        raise SettingsError(
            f"{file.name}, [worker]: key_file names {named}, which is not there; an operator makes a key with "
            "`atelier keys create --kind worker`."
        ) from None
    except OSError as error:
        raise SettingsError(f"{file.name}, [worker]: key_file {named} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise SettingsError(f"{file.name}, [worker]: key_file {named} holds no key: {error}.") from None
    if not key:
        raise SettingsError(f"{file.name}, [worker]: key_file names {named}, which is empty.")
    _warn_if_open(path)
    return Secret(key)


def _warn_if_open(path: Path) -> None:
    if path.is_file() and path.stat().st_mode & 0o077:
        log.warning("key_file_open_to_others", file=str(path), then=f"chmod 600 {path.name}")


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40].strip("-.") or "worker"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}

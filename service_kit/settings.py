"""How settings are found: flag > `ATELIER_*` environment > `atelier.toml` > default. `settings_table` lists them."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from service_kit.secret import Secret
from service_kit.settings_table import SECTIONS, TypeName, default_of, type_name_of
from service_kit.settings_table import Settings as _Table
from service_kit.units import parse_duration, parse_size

__all__ = ["SETTINGS", "Explained", "Secret", "Setting", "Settings", "SettingsError", "for_tests", "load"]

ENV_PREFIX = "ATELIER_"
CONFIG_ENV = "ATELIER_CONFIG"
Source = Literal["flag", "environment", "file", "default"]


class SettingsError(ValueError):
    """A setting is unknown or has a value that cannot be used; the message is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table of settings."""

    section: str
    key: str
    kind: TypeName
    default: Any
    doc: str

    @property
    def name(self) -> str:
        """`router.lease_ttl`: the name in messages, and section and key in `atelier.toml`."""
        return f"{self.section}.{self.key}"

    @property
    def env(self) -> str:
        """`ATELIER_ROUTER_LEASE_TTL`; the section `core` leaves its name out."""
        middle = "" if self.section == "core" else f"{self.section.upper()}_"
        return f"{ENV_PREFIX}{middle}{self.key.upper()}"

    @property
    def secret(self) -> bool:
        """Whether the value must not be shown; such a setting also takes `<env>_FILE`."""
        return self.kind == "secret"


@dataclass(frozen=True, slots=True)
class Explained:
    """Where one setting got its value: the value as text, masked for secrets."""

    name: str
    value: str
    source: str
    doc: str


def _rows() -> Iterator[Setting]:
    for section_name, section in SECTIONS.items():
        for entry in fields(section):
            yield Setting(section_name, entry.name, type_name_of(entry), default_of(entry), entry.metadata["doc"])


SETTINGS: tuple[Setting, ...] = tuple(_rows())
_BY_NAME = {setting.name: setting for setting in SETTINGS}
_BY_ENV = {setting.env: setting for setting in SETTINGS} | {
    f"{setting.env}_FILE": setting for setting in SETTINGS if setting.secret
}


@dataclass(frozen=True, slots=True)
class Settings(_Table):
    """Every setting of this process, resolved: `settings.router.lease_ttl`."""

    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def value(self, name: str) -> Any:
        """Return the value of `section.key`."""
        section, key = name.split(".")
        return getattr(getattr(self, section), key)

    def explain(self) -> list[Explained]:
        """Return every setting with its value as text (secrets masked) and where the value came from."""
        return [
            Explained(row.name, to_text(self.value(row.name)), self.sources.get(row.name, "default"), row.doc)
            for row in SETTINGS
        ]

    @property
    def keys_dir(self) -> Path:
        """Where rings and key files are kept."""
        return self.core.data_dir / "keys"

    @property
    def blobs_dir(self) -> Path:
        """Where the local blob store keeps its buckets."""
        return self.core.data_dir / "blobs"

    @property
    def handover_dir(self) -> Path:
        """Where workers that share the data folder hand large files over."""
        return self.core.data_dir / "handover"

    def service_dir(self, service: str) -> Path:
        """Return the folder of one service, such as `router`."""
        return self.core.data_dir / service


def load(
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """Resolve every setting.

    Args:
        flags: values given on the command line, by name (`router.listen`), as text.
        environ: the environment; only `ATELIER_*` is looked at.
        config: the file to read; otherwise `ATELIER_CONFIG`, otherwise `atelier.toml` in the current folder, if any.

    Raises:
        SettingsError: an unknown name (the nearest known one is named), an unusable value, an unreadable file.
    """
    environ = environ or {}
    found: dict[str, tuple[Any, str]] = {}
    found.update(_from_file(config or _config_path(environ)))
    found.update(_from_environment(environ))
    for name, text in (flags or {}).items():
        row = _BY_NAME.get(name)
        if row is None:
            raise SettingsError(f"There is no setting {name!r}.{_nearest(name, _BY_NAME)}")
        found[name] = (parse(row, text), "flag")
    return _build(found)


def for_tests(data_dir: Path, **changes: Any) -> Settings:
    """Return settings that touch nothing but `data_dir`: free ports, no pauses in the engine.

    `changes` go by `section__key`, as text or as values.
    """
    found: dict[str, tuple[Any, str]] = {
        row.name: ("127.0.0.1:0", "default") for row in SETTINGS if row.key == "listen"
    }
    found["core.data_dir"] = (data_dir, "default")
    found["sketch.step_delay"] = (timedelta(0), "default")
    for name, value in changes.items():
        dotted = name.replace("__", ".")
        row = _BY_NAME.get(dotted)
        if row is None:
            raise SettingsError(f"There is no setting {dotted!r}.{_nearest(dotted, _BY_NAME)}")
        found[dotted] = (parse(row, value) if isinstance(value, str) else value, "flag")
    return _build(found)


def _build(found: Mapping[str, tuple[Any, str]]) -> Settings:
    sections: dict[str, Any] = {}
    for section_name, section in SECTIONS.items():
        values = {
            entry.name: found[f"{section_name}.{entry.name}"][0]
            for entry in fields(section)
            if f"{section_name}.{entry.name}" in found
        }
        sections[section_name] = section(**values)
    sources = MappingProxyType({name: source for name, (_, source) in found.items()})
    return Settings(**sections, sources=sources)


def _config_path(environ: Mapping[str, str]) -> Path | None:
    named = environ.get(CONFIG_ENV)
    if named:
        return Path(named)
    usual = Path("atelier.toml")
    return usual if usual.is_file() else None


def _from_file(path: Path | None) -> dict[str, tuple[Any, str]]:
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SettingsError(f"The settings file {path} is not valid TOML: {error}.") from error
    found: dict[str, tuple[Any, str]] = {}
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, dict):
            raise SettingsError(f"The settings file {path} has no section [{section}].{_nearest(section, SECTIONS)}")
        for key, value in table.items():
            row = _BY_NAME.get(f"{section}.{key}")
            if row is None:
                raise SettingsError(
                    f"The settings file {path} has an unknown key {section}.{key}."
                    + _nearest(f"{section}.{key}", _BY_NAME)
                )
            found[row.name] = (parse(row, value), f"file {path}")
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or name == CONFIG_ENV:
            continue
        row = _BY_ENV.get(name)
        if row is None:
            raise SettingsError(f"There is no setting {name}.{_nearest(name, _BY_ENV)}")
        if name == row.env:
            found[row.name] = (parse(row, text), f"environment {name}")
        elif row.env in environ:
            raise SettingsError(f"Both {row.env} and {name} are set; keep one of them.")
        else:
            found[row.name] = (Secret(_read_secret_file(name, text)), f"environment {name}")
    return found


def _read_secret_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError as error:
        raise SettingsError(f"The file {path} that {name} names cannot be read: {error.strerror}.") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    # The prefix that all variables share would make any two of them look alike.
    names = {candidate.removeprefix(ENV_PREFIX): candidate for candidate in known}
    near = difflib.get_close_matches(name.removeprefix(ENV_PREFIX), list(names), n=1, cutoff=0.5)
    return f" Did you mean {names[near[0]]}?" if near else " `atelier config show` lists all settings."


def parse(row: Setting, value: object) -> Any:
    """Return the value of a setting from text (flag, environment) or from a TOML value.

    Raises:
        SettingsError: the value is not one of this setting's type; names setting, value and what is accepted.
    """
    try:
        return _parse(row.kind, value)
    except ValueError as error:
        shown = "that value" if row.secret else repr(value)
        raise SettingsError(f"{row.name} (or {row.env}) cannot be {shown}: {error}.") from None


def _parse(kind: TypeName, value: object) -> Any:
    if isinstance(value, list) and kind == "list":
        if not all(isinstance(part, str) for part in value):
            raise ValueError(f"it takes {_ACCEPTED[kind]}")
        return tuple(value)
    if isinstance(value, bool) and kind == "bool":
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and kind in ("int", "float"):
        return _parse(kind, str(value))
    if not isinstance(value, str):
        raise ValueError(f"it takes {_ACCEPTED[kind]}")
    return _parse_text(kind, value)


_ACCEPTED: dict[TypeName, str] = {
    "str": "a text",
    "int": "a whole number such as 64 or 64MiB",
    "float": "a number",
    "bool": "true or false",
    "duration": "a duration such as 7d, 30s, 50ms or 1h30m",
    "path": "the path of a folder",
    "list": "a list of texts",
    "secret": "a text",
}


def _parse_text(kind: TypeName, text: str) -> Any:
    match kind:
        case "str":
            return text
        case "secret":
            return Secret(text)
        case "path":
            return Path(text).expanduser()
        case "list":
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case "bool":
            if text.lower() not in ("true", "false"):
                raise ValueError(f"it takes {_ACCEPTED[kind]}")
            return text.lower() == "true"
        case "float":
            return float(text)
        case "int":
            try:
                return parse_size(text)
            except ValueError:
                raise ValueError(f"it takes {_ACCEPTED[kind]}") from None
        case "duration":
            return parse_duration(text)


def to_text(value: object) -> str:
    """Return a value as it could be written in `atelier.toml` without quotes; secrets are masked."""
    match value:
        case bool():
            return "true" if value else "false"
        case timedelta():
            return _duration_text(value)
        case tuple():
            return ",".join(str(part) for part in value)
        case _:
            return str(value)


def _duration_text(value: timedelta) -> str:
    milliseconds = round(value / timedelta(milliseconds=1))
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"

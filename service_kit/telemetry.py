"""How things are logged: constant event names, data as fields, as text for people or as JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from service_kit.clock import rfc3339

_FIELDS = "atelier_fields"


class Log:
    """A logger whose calls take an event's name and its fields: `log.info("job_leased", job_id=job_id)`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: Any) -> None:
        """Log what only a developer wants to see."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log what happened."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log what an operator should look at some time."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log what an operator should look at now."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log a fault, with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, fields, traceback=True)

    def _log(self, level: int, event: str, fields: dict[str, Any], *, traceback: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={_FIELDS: fields}, exc_info=traceback)


def get_logger(name: str) -> Log:
    """Give a module its log, by `__name__`."""
    return Log(logging.getLogger(name))


def configure_logging(level: str, format: Literal["text", "json"] | str, stream: TextIO | None = None) -> None:
    """Send the log of the whole process to standard error, or to `stream`.

    Raises:
        ValueError: the level or the format is not known; names those that are.
    """
    levels = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    formatters: dict[str, type[logging.Formatter]] = {"text": _TextFormatter, "json": _JsonFormatter}
    if level not in levels:
        raise ValueError(f"core.log_level must be one of {', '.join(levels)}, got {level!r}")
    if format not in formatters:
        raise ValueError(f"core.log_format must be one of {', '.join(formatters)}, got {format!r}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatters[format]())
    logging.basicConfig(level=levels[level], handlers=[handler], force=True)
    # These write a line per query, per loop or per migration, which drowns everything else.
    for noisy in ("aiosqlite", "asyncio", "grpc", "alembic"):
        logging.getLogger(noisy).setLevel(max(levels[level], logging.WARNING))


def _moment(record: logging.LogRecord) -> str:
    return rfc3339(datetime.fromtimestamp(record.created, UTC))


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={_word(value)}" for name, value in getattr(record, _FIELDS, {}).items())
        line = f"{_moment(record)} {record.levelname.lower():7} {record.name} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _word(value: object) -> str:
    text = str(value)
    # One event is one line: what a client sent must not be able to write a second one.
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)

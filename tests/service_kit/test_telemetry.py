"""What the log looks like: one line per event, constant names, fields as data."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from service_kit.secret import Secret
from service_kit.telemetry import configure_logging, get_logger


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text_is_one_line_whatever_a_client_sent() -> None:
    stream = io.StringIO()
    configure_logging("info", "text", stream)
    get_logger("part").info("job_leased", job_id="7", prompt="a\nb \x1b[31m", key=Secret("hunter2"), nothing="")
    get_logger("part").debug("not_seen")
    [line] = stream.getvalue().splitlines()
    assert line.endswith(r'info    part job_leased job_id=7 prompt="a\nb \u001b[31m" key=******** nothing=""')


def test_json_is_one_object_per_line_with_the_traceback_of_a_fault() -> None:
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    try:
        raise KeyError("x")
    except KeyError:
        get_logger("part").exception("rpc_fault", method="/a.B/C", key=Secret("hunter2"))
    [line] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (line["level"], line["logger"], line["event"], line["method"]) == ("error", "part", "rpc_fault", "/a.B/C")
    assert line["key"] == "********"
    assert "KeyError" in line["traceback"]
    assert line["time"].endswith("Z")


@pytest.mark.parametrize(("level", "format"), [("loud", "text"), ("info", "xml")])
def test_an_unknown_level_or_format_is_named(level: str, format: str) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        configure_logging(level, format)

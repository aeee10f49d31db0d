"""The events of a job: server-sent events in, typed events out, and the text that grows from its pieces."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atelier_client._decode import decode
from atelier_client.errors import BadReply
from atelier_client.models import Job

MAX_EVENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work is: step of steps of one output, and the fraction of the whole job from 0 to 1."""

    job_id: str = ""
    stage: str = ""
    asset_index: int = 0
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    phase: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture of an output in the making."""

    job_id: str = ""
    asset_index: int = 0
    step: int = 0
    content_type: str = ""
    image: bytes = b""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the text that is being written, and where it begins in the whole, in Unicode characters."""

    job_id: str = ""
    offset: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that the engine wrote."""

    job_id: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event of a job.

    Attributes:
        kind: `snapshot`, `state`, `progress`, `preview`, `text_delta`, `log`, or one that this release does not know.
        cursor: watch on after this event; empty for events that are not durable.
        job: the job, with `snapshot` and `state`.
        raw: the message as it came.
    """

    kind: str
    cursor: str = ""
    job: Job | None = None
    progress: Progress | None = None
    preview: Preview | None = None
    text_delta: TextDelta | None = None
    log: LogLine | None = None
    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One server-sent event as it stands in the stream."""

    event: str
    data: str
    id: str


def job_event(event: ServerEvent) -> JobEvent:
    """Return the typed event of a server-sent event.

    Raises:
        BadReply: the data are not a JSON object of the expected shape.
    """
    message = json_object(event)
    body = message.get(event.event)
    found: dict[str, Any] = {}
    if event.event in ("snapshot", "state"):
        found["job"] = decode(Job, body)
    elif event.event in _BODIES:
        found[event.event] = decode(_BODIES[event.event], body)
    return JobEvent(event.event, event.id or str(message.get("cursor") or ""), raw=message, **found)


_BODIES: dict[str, type[Any]] = {"progress": Progress, "preview": Preview, "text_delta": TextDelta, "log": LogLine}


def json_object(event: ServerEvent) -> Mapping[str, Any]:
    """Return the data of an event as a JSON object. Raises BadReply."""
    try:
        message = json.loads(event.data)
    except ValueError as error:
        raise BadReply(f"An event carries what is not JSON: {event.data[:80]!r}.") from error
    if not isinstance(message, dict):
        raise BadReply(f"An event carries what is not a JSON object: {event.data[:80]!r}.")
    return message


class SseDecoder:
    """Takes bytes as they come and gives whole server-sent events (WHATWG HTML, section 9.2.6).

    Lines are split on CR, LF and CRLF only: U+2028 and its like are part of the data.
    """

    def __init__(self) -> None:
        self._pending = b""
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self._size = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Return the events that this chunk completes. Raises BadReply for an event over 4 MiB."""
        self._pending += chunk
        # A CR at the end may be half of a CRLF.
        held = b"\r" if self._pending.endswith(b"\r") else b""
        text = self._pending[: len(self._pending) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._pending = rest + held
        if len(self._pending) + self._size > MAX_EVENT_BYTES:
            raise BadReply(f"An event is larger than {MAX_EVENT_BYTES} bytes.")
        return [event for line in lines if (event := self._line(line.decode("utf-8", "replace"))) is not None]

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        self._size += len(line)
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        event = ServerEvent(self._event or "message", "\n".join(self._data), self._id) if self._data else None
        self._event, self._data, self._id, self._size = "", [], "", 0
        return event


class GrowingText:
    """A text that grows from pieces; pieces may repeat what is known, and offset 0 may begin anew."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, piece: TextDelta) -> tuple[bool, str]:
        """Take a piece.

        Returns:
            Whether the text began anew (drop what was shown), and what is to be shown after what was shown before.
        """
        head = self.text[: piece.offset]
        if piece.offset > len(self.text):
            return False, ""  # A piece is missing; the finished job has the whole text.
        if self.text.startswith(head + piece.text):
            return False, ""
        if (head + piece.text).startswith(self.text):
            new = piece.text[len(self.text) - piece.offset :]
            self.text = head + piece.text
            return False, new
        self.text = head + piece.text
        return True, self.text

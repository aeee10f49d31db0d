"""Server-sent events, taken apart as they arrive, in pieces of any size.

The format is that of the HTML standard, section 9.2 (server-sent events): lines end in LF, CR or CRLF, an empty line
ends an event, a line that begins with a colon is a comment. Only `data` is kept: no upstream says more.
"""

from __future__ import annotations

LONGEST_EVENT_BYTES = 1 << 20


class BadStream(Exception):
    """The bytes are no stream of events; the message is a sentence."""


class EventReader:
    """Turns pieces of a stream into the data of its events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[str] = []
        self._size_bytes = 0
        self._first = True

    def feed(self, piece: bytes) -> list[str]:
        """Take the next bytes; return the data of the events that they complete, in order.

        Raises:
            BadStream: a line is not UTF-8, or an event is larger than 1 MiB.
        """
        if b"\n" not in piece and b"\r" not in piece and not self._rest.endswith(b"\r"):
            # A line that comes in very small pieces is not read anew for each of them.
            self._keep(piece)
            return []
        text = bytes(self._rest) + piece
        # Whether a CR ends a line alone or with the LF after it is known only when the next byte is there.
        held = b"\r" if text.endswith(b"\r") else b""
        lines = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest.clear()
        self._keep(lines.pop() + held)
        return [event for line in lines if (event := self._take(line)) is not None]

    def _keep(self, piece: bytes) -> None:
        """Add to the line that has not ended yet."""
        self._rest += piece
        if len(self._rest) > LONGEST_EVENT_BYTES:
            raise BadStream(f"An event of the upstream is larger than {LONGEST_EVENT_BYTES} bytes.")

    def _take(self, raw: bytes) -> str | None:
        """Take one line; return the data of the event that it ends."""
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise BadStream("The upstream's stream of events is not UTF-8.") from None
        if self._first:
            line, self._first = line.removeprefix("\ufeff"), False
        if not line:
            event = "\n".join(self._data) if self._data else None
            self._data, self._size_bytes = [], 0
            return event
        name, _, value = line.partition(":")
        if name == "data":
            self._size_bytes += len(raw)
            if self._size_bytes > LONGEST_EVENT_BYTES:
                raise BadStream(f"An event of the upstream is larger than {LONGEST_EVENT_BYTES} bytes.")
            self._data.append(value.removeprefix(" "))
        return None

"""A connection that sends together what was written in one step of the event loop: each piece is a system call.

The head of a response and its first bytes, or the last event of a stream and the end of its body, come so.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.http import SLOWEST_BYTES_PER_S

_ENOUGH_BYTES = 32 << 10


class JoinedWrites:
    """A transport with another way to write; everything else is the transport's own."""

    __slots__ = ("_limit_s", "_loop", "_size", "_transport", "_waiting")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        """Write to a transport; who reads the last of it at no pace at all is cut off after `limit_s`."""
        self._transport = transport
        self._loop = loop
        self._limit_s = limit_s
        self._waiting: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        """Return what the transport has."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data, at the end of this step of the event loop at the latest."""
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _ENOUGH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._waiting:
            data = b"".join(self._waiting)
            self._forget()
            self._transport.write(data)

    def close(self) -> None:
        """Send what waits, and close the connection."""
        self.flush()
        # Over TLS there is nobody to ask once it is closed.
        left = 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()
        self._transport.close()
        # Nobody waits for this any more, and a transport waits for ever.
        if left:
            self._loop.call_later(self._limit_s + left / SLOWEST_BYTES_PER_S, self._transport.abort)

    def abort(self) -> None:
        """Cut the connection; what waits is lost."""
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        self._waiting.clear()
        self._size = 0

"""A TCP proxy in front of each link: it forwards, counts, stalls and cuts; it fails over to the next target."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence

_CHUNK_BYTES = 64 * 1024
_CONNECT_LIMIT_S = 2.0

Target = tuple[str, int]


class Link:
    """One listening port and the targets behind it, the preferred one first."""

    def __init__(
        self, name: str, port: int, targets: Sequence[Target], *, on_sent: Callable[[int], None] | None = None
    ) -> None:
        """Forward what comes in at `port` of loopback; `on_sent` hears how many bytes went towards the target."""
        self.name = name
        self.port = port
        self._targets = tuple(targets)
        self._on_sent = on_sent
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def target(self) -> str:
        """The address that clients connect to."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Cut everything and listen no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)
        # An aborted transport closes its socket in the next round of the loop.
        await asyncio.sleep(0)

    def stall(self) -> None:
        """Let nothing through, either way, without closing anything."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let everything through that has waited."""
        self._flowing.set()

    def cut(self) -> int:
        """Break every open connection, as a reset. Returns how many there were."""
        for task in self._open:
            task.cancel()
        return len(self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served in a task")
        self._open.add(task)
        # A cut cancels this task; that is its proper end, and nobody waits for a result.
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await self._forward(reader, writer)
            finally:
                self._open.discard(task)
                _reset(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        connected = await self._connect()
        if connected is None:
            return
        far_reader, far_writer = connected
        ways = [
            asyncio.create_task(self._pump(reader, far_writer, self._on_sent)),
            asyncio.create_task(self._pump(far_reader, writer, None)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            _reset(far_writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for host, port in self._targets:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_LIMIT_S):
                    return await asyncio.open_connection(host, port)
        return None

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None] | None
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
                if count is not None:
                    count(len(data))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other end sees a reset, not an orderly end."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

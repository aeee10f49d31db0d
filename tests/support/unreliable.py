"""An HTTP proxy that fails on chosen requests, after they have arrived: what makes a client try again.

    async with unreliable(system.url, {1: Fault.ERROR}) as proxy:
        client = AsyncOpenAI(base_url=f"{proxy.url}/openai/v1", api_key=system.key(), max_retries=2)
        ...
        assert [seen.path for seen in proxy.requests] == ["/openai/v1/images/generations"] * 2

Clients that block run in a thread beside it (`asyncio.to_thread`), or use `unreliable_thread` where no loop runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

# Nobody waits longer, whatever a client does.
_LIMIT_S = 60.0
_MAX_HEAD_BYTES = 64 << 10
_PIECE_BYTES = 64 << 10
_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b'content-length: 36\r\n\r\n{"error":{"message":"broken proxy"}}'
)


class Fault(StrEnum):
    """What happens to a request, whose job has been accepted in every case but `CUT_AT_ONCE`, which does not know."""

    ERROR = "error"
    """The client gets a 500 in place of the answer, once there is one."""
    CUT = "cut"
    """The client's connection breaks without an answer, once there is one."""
    CUT_AT_ONCE = "cut at once"
    """Both connections break as soon as the body has gone out: the retry may arrive while the first is being served."""
    SILENCE = "silence"
    """The answer is kept back until the client has given up."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that came through."""

    method: str
    path: str
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes
    fault: Fault | None


Counts = Callable[[str, str], bool]


def submits(method: str, path: str) -> bool:
    """Count what may make a job: every POST."""
    return method == "POST"


@dataclass
class Unreliable:
    """A proxy to one address. `faults` says which request fails how, by its number from 1 among those that count."""

    target: str
    faults: Mapping[int, Fault]
    counts: Counts = submits
    requests: list[Seen] = field(default_factory=list)
    """What came so far, in order, also what does not count."""
    url: str = ""
    _counted: int = 0
    _server: asyncio.Server | None = None
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen on a free port of loopback, with TLS if there is a context for it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_MAX_HEAD_BYTES, ssl=tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"

    async def close(self) -> None:
        """Break what is open and listen no more."""
        if self._server is not None:
            self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        # An aborted transport closes its socket in the next round of the loop.
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served in a task")
        self._running.add(task)
        # The end of the proxy cancels this task, and a client may leave at any moment: both are proper ends.
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, EOFError, TimeoutError):
            try:
                async with asyncio.timeout(_LIMIT_S):
                    await self._exchange(reader, writer)
            finally:
                self._running.discard(task)
                writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request; the connection ends with it, so that requests and connections are the same in number."""
        head = await reader.readuntil(b"\r\n\r\n")
        body = await _body(reader, _headers(head))
        seen = self._note(head, body)
        there = urlsplit(self.target)
        upstream, sending = await asyncio.open_connection(there.hostname, there.port)
        try:
            sending.write(_closing(head) + body)
            await sending.drain()
            if seen.fault is Fault.CUT_AT_ONCE:
                return
            first = await upstream.readuntil(b"\r\n\r\n")
            if seen.fault is None:
                await _pass_on(first, upstream, writer)
                return
            # The whole answer: only then is it sure that nothing of the request is still under way.
            await upstream.read()
            if seen.fault is Fault.ERROR:
                writer.write(_ERROR)
                await _end(writer)
            elif seen.fault is Fault.SILENCE:
                await reader.read()
        finally:
            # What has been written goes out before the connection ends.
            sending.close()

    def _note(self, head: bytes, body: bytes) -> Seen:
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        fault = None
        if self.counts(method, path):
            self._counted += 1
            fault = self.faults.get(self._counted)
        seen = Seen(method, path, _headers(head), body, fault)
        self.requests.append(seen)
        return seen


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    """Return the body as it is on the wire, chunks included."""
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", "0")))
    content = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        content += line + await reader.readexactly(size + 2)
        if not size:
            return content


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def _closing(head: bytes) -> bytes:
    """Return a head that asks for the end of the connection after the answer."""
    first, *lines = head[:-4].split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].lower() not in (b"connection", b"expect")]
    return b"\r\n".join([first, *kept, b"connection: close"]) + b"\r\n\r\n"


async def _pass_on(first: bytes, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send an answer on, piece by piece, as it comes."""
    writer.write(first)
    while piece := await upstream.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    await _end(writer)


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


@asynccontextmanager
async def unreliable(
    target: str, faults: Mapping[int, Fault], *, counts: Counts = submits, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Unreliable]:
    """Run a proxy to `target`, such as http://127.0.0.1:7400; `proxy.url` is its own address."""
    proxy = Unreliable(target, faults, counts)
    await proxy.start(tls)
    try:
        yield proxy
    finally:
        await proxy.close()


@contextmanager
def unreliable_thread(
    target: str, faults: Mapping[int, Fault], *, counts: Counts = submits, tls: ssl.SSLContext | None = None
) -> Iterator[Unreliable]:
    """Run a proxy in a thread of its own, for tests that run no loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="unreliable")
    thread.start()
    proxy = Unreliable(target, faults, counts)
    try:
        asyncio.run_coroutine_threadsafe(proxy.start(tls), loop).result(_LIMIT_S)
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.close(), loop).result(_LIMIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

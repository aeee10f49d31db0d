"""Requests to addresses that others name: to allowed destinations only, bounded in time and size, followed with care.

A name is resolved once, every address that it has is checked, and the connection is made to the very address that was
checked; TLS is verified against the name. Nothing is decompressed, no proxy and no cookie is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urljoin

import httpcore

from service_kit.destinations import Destination, Destinations, IPAddress, Refused
from service_kit.settings import SettingsError
from service_kit.version import __version__

Resolve = Callable[[str, int], Awaitable[Sequence[IPAddress]]]

MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_ADDRESSES = 4
_CONNECT_S = 5.0
_RESOLVER_THREADS = 8
_USER_AGENT = f"Atelier/{__version__}"


class Unreachable(Exception):
    """There was no answer that could be used; the message is a sentence."""


@dataclass(slots=True)
class Fetched:
    """A file on its way. `size_bytes` is what the server announced, None when it did not."""

    content_type: str
    size_bytes: int | None
    chunks: AsyncIterator[bytes]


class Resolver:
    """Looks names up in threads of its own, so that slow name servers hold up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, "resolve")

    async def __call__(self, host: str, port: int) -> Sequence[IPAddress]:
        """Return the addresses of a name, in the order of preference. Raises OSError when it has none."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host, port)
        return [ipaddress.ip_address(address) for address in dict.fromkeys(found)]

    def close(self) -> None:
        """Begin no more look-ups; one that runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Outgoing:
    """The one client. Any number of requests at a time; callers bound how many."""

    def __init__(self, destinations: Destinations, resolve: Resolve, tls: ssl.SSLContext) -> None:
        """Connect where `destinations` allow, to what `resolve` finds, and verify servers with `tls`."""
        self._destinations = destinations
        self._resolve = resolve
        self._tls = tls

    def parse(self, url: str) -> Destination:
        """Return where a URL leads. Raises Refused when that can be seen without asking anybody."""
        return self._destinations.parse(url)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, limit: timedelta) -> int:
        """Post once and follow nothing. Returns the status; what comes after it is not read.

        Raises:
            Refused: the destination is not allowed.
            Unreachable: no answer within `limit`, or none that is HTTP.
        """
        destination = self.parse(url)
        status = 0
        async with _bounded(limit), self._exchange("POST", destination, headers, body) as response:
            status = response.status
        return status

    @asynccontextmanager
    async def get(self, url: str, *, accept: str, limit: timedelta, max_bytes: int) -> AsyncIterator[Fetched]:
        """Fetch a file; at most three redirects are followed, each checked as the URL itself.

        Args:
            url: of the file.
            accept: the header of that name.
            limit: for everything, with what the caller does with the chunks.
            max_bytes: the largest file.

        Raises:
            Refused: a destination is not allowed, the file is larger or is compressed.
            Unreachable: anything but 200, no answer in time, an answer that breaks off.
        """
        headers = {"accept": accept, "accept-encoding": "identity"}
        async with _bounded(limit):
            for _ in range(MAX_REDIRECTS + 1):
                destination = self.parse(url)
                async with self._exchange("GET", destination, headers, b"") as response:
                    found = _headers(response)
                    if response.status not in _REDIRECTS or "location" not in found:
                        yield _fetched(response, found, max_bytes)
                        return
                url = urljoin(destination.url, found["location"])
            raise Refused(f"leads on more than {MAX_REDIRECTS} times")

    @asynccontextmanager
    async def _exchange(
        self, method: str, destination: Destination, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[httpcore.Response]:
        """Send one request over a connection of its own, and close it."""
        all_headers = {"host": destination.authority, "user-agent": _USER_AGENT, "connection": "close", **headers}
        if method == "POST":
            all_headers["content-length"] = str(len(body))
        url = httpcore.URL(
            scheme=destination.scheme.encode(),
            host=destination.host.encode(),
            port=destination.port,
            target=destination.target.encode("ascii"),
        )
        backend = _CheckedBackend(self._destinations, destination, self._resolve)
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._tls, network_backend=backend, max_connections=1, max_keepalive_connections=0
        ) as pool:
            wire_headers = [(name.encode(), value.encode("latin-1")) for name, value in all_headers.items()]
            async with pool.stream(method, url, headers=wire_headers, content=body) as response:
                yield response


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to nothing else."""

    def __init__(self, destinations: Destinations, destination: Destination, resolve: Resolve) -> None:
        self._destinations = destinations
        self._destination = destination
        self._resolve = resolve
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._addresses(host, port)
        # One that is refused refuses all: a name that is public and private at once is a trick, or a mistake.
        for address in addresses:
            self._destinations.check_address(self._destination, address)
        problem: Exception | None = None
        for address in addresses[:_MOST_ADDRESSES]:
            try:
                return await self._plain.connect_tcp(str(address), port, timeout=_CONNECT_S)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise Unreachable(f"There was no connection to {host}: {problem or 'it has no address'}.")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise Unreachable("Sockets of this machine are not connected to.")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> Sequence[IPAddress]:
        # What is no address is a name.
        with contextlib.suppress(ValueError):
            return [ipaddress.ip_address(host)]
        try:
            return await self._resolve(host, port)
        except (OSError, ValueError, UnicodeError):
            raise Unreachable(f"The name {host} has no address.") from None


@asynccontextmanager
async def _bounded(limit: timedelta) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limit.total_seconds()):
            yield
    except TimeoutError:
        raise Unreachable(f"The server did not answer in full within {limit.total_seconds():g} s.") from None
    except (httpcore.ConnectError, ssl.SSLError) as error:
        raise Unreachable(f"The connection could not be made, or its certificate was not accepted: {error}.") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        # After a colon the parser repeats what it was sent, which may be meant for nobody outside.
        problem = str(error).partition(":")[0] or type(error).__name__
        raise Unreachable(f"The server's answer was not HTTP, or broke off: {problem}.") from None


def open_tls(ca_file: str) -> ssl.SSLContext:
    """Return what verifies servers: by the well-known authorities, and by those of a PEM file if one is named.

    Raises:
        SettingsError: the file cannot be read.
    """
    context = httpcore.default_ssl_context()
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:
            raise SettingsError(f"outgoing.tls_ca: {ca_file} cannot be read as PEM: {error}") from None
    return context


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _fetched(response: httpcore.Response, headers: Mapping[str, str], max_bytes: int) -> Fetched:
    if response.status != 200:
        raise Unreachable(f"The server answered {response.status}.")
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise Refused("is answered compressed, although that was not asked for")
    length = headers.get("content-length", "")
    size_bytes = int(length) if length.isascii() and length.isdecimal() else None
    if size_bytes is not None and size_bytes > max_bytes:
        raise Refused(f"is larger than {max_bytes} bytes")
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return Fetched(content_type, size_bytes, _counted(response, max_bytes))


async def _counted(response: httpcore.Response, max_bytes: int) -> AsyncIterator[bytes]:
    total = 0
    async for chunk in response.aiter_stream():
        total += len(chunk)
        if total > max_bytes:
            raise Refused(f"is larger than {max_bytes} bytes")
        yield chunk

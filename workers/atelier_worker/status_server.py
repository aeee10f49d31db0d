"""The port at which a process of workers tells how it is: `/live`, `/ready`, `/metrics` and `/status`.

HTTP/1.1 (RFC 9112) as far as four GETs without a body need it: one request a connection, within a deadline, and few
connections at once, so that whoever only connects neither keeps a probe out nor the process busy.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from http import HTTPStatus

from atelier_worker.member import Member
from atelier_worker.status import is_live, is_ready, metrics_text, status_of
from service_kit.errors import FailedPrecondition
from service_kit.server import is_loopback
from service_kit.settings import SettingsError
from service_kit.telemetry import get_logger

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TEXT_TYPE = "text/plain; charset=utf-8"
_MOST_AT_ONCE = 32
_MOST_HEADER_BYTES = 8 << 10
# For the request to come, and again for the answer to be taken.
PATIENCE_S = 5.0

Answer = tuple[HTTPStatus, str, str]
log = get_logger(__name__)


class StatusServer:
    """Answers four GETs. It tells nothing secret, and takes no orders."""

    def __init__(
        self, listen: str, members: Sequence[Member], *, insecure: bool = False, patience_s: float = PATIENCE_S
    ) -> None:
        """Prepare to listen at `host:port`; a connection has `patience_s` for its request.

        Raises:
            SettingsError: it is no address, or one beyond this machine without leave.
        """
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise SettingsError(f"[worker]: status takes host:port such as 127.0.0.1:7490, got {listen!r}.")
        if not is_loopback(listen) and not insecure:
            raise SettingsError(
                f"[worker]: status would listen at {listen}, beyond this machine, without TLS and for everybody. Keep "
                "it at 127.0.0.1, or set insecure = true if the network is yours alone."
            )
        self._address = (host.strip("[]"), int(port))
        self._members = members
        self._patience_s = patience_s
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        # In the order in which they came.
        self._connections: dict[asyncio.Task[None], None] = {}

    @property
    def port(self) -> int:
        """The port that is listened at; 0 before the start."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    async def start(self) -> None:
        """Listen.

        Raises:
            FailedPrecondition: the address is taken or is not one of this machine.
        """
        self._socket = self._bind()
        self._server = await asyncio.start_server(self._accept, sock=self._socket, limit=_MOST_HEADER_BYTES)
        log.info("status_listens", port=self.port)

    async def stop(self) -> None:
        """Close, whoever is connected."""
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(self._address)
        except OSError as error:
            bound.close()
            host, port = self._address
            raise FailedPrecondition(
                f"[worker]: status cannot listen at {host}:{port}: {error.strerror or error}."
            ) from None
        return bound

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = [one for one in self._connections if not one.cancelling()]
        if len(kept) >= _MOST_AT_ONCE:
            # The oldest is the slowest: a probe that asks at once is let in whoever else is connected.
            kept[0].cancel()
        task = asyncio.create_task(self._serve(reader, writer), name="status request")
        self._connections[task] = None
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close."""
        try:
            answer, with_body = await self._read(reader)
            async with asyncio.timeout(self._patience_s):
                writer.write(_encoded(answer, with_body))
                await writer.drain()
                writer.write_eof()
                # To close with bytes unread would reset the connection, and the answer with it.
                while await reader.read(_MOST_HEADER_BYTES):
                    pass
        except (OSError, EOFError, TimeoutError):
            # Whoever asked is gone, or does not take the answer.
            log.debug("status_not_taken")
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[Answer, bool]:
        """Return the answer to a request, and whether its body is wanted.

        Raises:
            EOFError, OSError: the connection ended before the request did.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            sentence = f"The headers take at most {_MOST_HEADER_BYTES} bytes."
            return _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, sentence), True
        except TimeoutError:
            return _text(HTTPStatus.REQUEST_TIMEOUT, f"No request came within {self._patience_s:g} seconds."), True
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _text(HTTPStatus.BAD_REQUEST, "This port speaks HTTP/1.1."), True
        method, target, _ = words
        return self._answer(method, target.partition("?")[0]), method != "HEAD"

    def _answer(self, method: str, path: str) -> Answer:
        if method not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "This port takes GET.")
        match path:
            case "/live":
                return _yes_or_no(is_live(self._members), "No worker is left that could work.")
            case "/ready":
                return _yes_or_no(is_ready(self._members), "No worker is connected to a router.")
            case "/metrics":
                return HTTPStatus.OK, _METRICS_TYPE, metrics_text(self._members)
            case "/status":
                return HTTPStatus.OK, "application/json", json.dumps(status_of(self._members), indent=2) + "\n"
            case _:
                return _text(HTTPStatus.NOT_FOUND, "There are /live, /ready, /metrics and /status.")


def _yes_or_no(yes: bool, no: str) -> Answer:
    return _text(HTTPStatus.OK, "ok") if yes else _text(HTTPStatus.SERVICE_UNAVAILABLE, no)


def _text(status: HTTPStatus, sentence: str) -> Answer:
    return status, _TEXT_TYPE, f"{sentence}\n"


def _encoded(answer: Answer, with_body: bool) -> bytes:
    status, kind, text = answer
    body = text.encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "connection: close",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("allow: GET, HEAD")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head + body if with_body else head

"""uvicorn inside our own event loop: our socket, no signal handlers, every answer in the native shape."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from gateway.http import MAX_HEADER_BYTES
from gateway.joined_writes import JoinedWrites
from gateway.status import error_body, malformed
from service_kit.errors import FailedPrecondition
from service_kit.ids import new_id
from service_kit.settings import SettingsError

_GRACE = timedelta(seconds=5)
_HEADER_TIMEOUT_S = 30.0
_BACKLOG = 512


class _Protocol(H11Protocol):
    """HTTP/1.1 that answers in JSON what is no HTTP, and does not wait for ever for the headers of a request."""

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, JoinedWrites(transport, self.loop))
        self._watch_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_headers()
        super().connection_lost(exc)

    def _watch_headers(self) -> None:
        """Keep a timer while headers are not whole, so that one byte now and then holds nothing open."""
        if self.conn.their_state is not h11.IDLE:
            self._unwatch_headers()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(_HEADER_TIMEOUT_S, self.transport.abort)

    def _unwatch_headers(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, or whose headers are too long."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._leave_request()
            self.transport.close()
            return
        request_id = new_id()
        limit = f"or its headers are longer than {MAX_HEADER_BYTES} bytes"
        body = json.dumps(error_body(malformed(f"The request is not valid HTTP/1.1, {limit}."), request_id)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            output = self.conn.send(event)
            if output:
                self.transport.write(output)
        self._leave_request()
        self.transport.close()

    def _leave_request(self) -> None:
        """Tell the handler of a request whose body is no HTTP that its client is gone."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()


class WebServer:
    """Serves an ASGI application at one address."""

    def __init__(self, app: Any, listen: str, *, tls_cert: str = "", tls_key: str = "") -> None:
        """Prepare; nothing listens before `start`."""
        self._listen = listen
        self._config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=int(_GRACE.total_seconds()),
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ssl_certfile=tls_cert or None,
            ssl_keyfile=tls_key or None,
        )
        self._server = uvicorn.Server(self._config)
        self._socket: socket.socket | None = None
        self._ticking: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is listened at; 0 before the start."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    async def start(self) -> None:
        """Listen.

        Raises:
            FailedPrecondition: the address is taken or is not one of this machine.
            SettingsError: the certificate or its key cannot be read.
        """
        # Its lines repeat what we log ourselves, or tell of clients that break off.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._load()
        self._socket = _bind(self._listen)
        self._server.lifespan = self._config.lifespan_class(self._config)
        await self._server.startup(sockets=[self._socket])
        self._ticking = asyncio.create_task(self._server.main_loop(), name="web-server")

    async def stop(self) -> None:
        """Take no more connections, let the requests that run finish within the grace, and close."""
        if self._ticking is None or self._socket is None:
            return
        ticking, self._ticking = self._ticking, None
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        await self._server.shutdown(sockets=[self._socket])

    def abort(self, scope: Mapping[str, Any]) -> None:
        """Cut the connection of a request, whatever is still in its buffers."""
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, H11Protocol) and connection.scope is scope:
                connection.transport.abort()

    def _load(self) -> None:
        try:
            self._config.load()
        except OSError as error:
            raise SettingsError(
                f"gateway.tls_cert or gateway.tls_key cannot be used: {error.strerror or error}."
            ) from None


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it every answer waits 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, int(port)))
        made.listen(_BACKLOG)
        made.setblocking(False)
    except (OSError, ValueError) as error:
        made.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FailedPrecondition(
            f"gateway cannot listen at {listen}: {why}. Stop the other process, or choose another address with "
            "ATELIER_GATEWAY_LISTEN."
        ) from None
    return made

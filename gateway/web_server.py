"""uvicorn inside our own event loop: our socket, no signal handlers, every answer in the native shape."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any, cast

import uvicorn

from gateway.http_connection import HttpConnection
from service_kit.errors import FailedPrecondition
from service_kit.settings import SettingsError

_GRACE = timedelta(seconds=5)
_BACKLOG = 512


class WebServer:
    """Serves an ASGI application at one address."""

    def __init__(
        self,
        app: Any,
        listen: str,
        *,
        write_timeout: timedelta = timedelta(seconds=30),
        tls_cert: str = "",
        tls_key: str = "",
    ) -> None:
        """Prepare; nothing listens before `start`. Whoever writes waits `write_timeout` for a slow reader."""
        self._listen = listen
        self._config = uvicorn.Config(
            app,
            http=cast(Any, partial(HttpConnection, write_timeout=write_timeout)),
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=int(_GRACE.total_seconds()),
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
            if isinstance(connection, HttpConnection) and connection.scope is scope:
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

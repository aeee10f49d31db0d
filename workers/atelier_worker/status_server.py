"""The port at which a process of workers tells how it is: `/live`, `/ready`, `/metrics` and `/status`."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvicorn

from atelier_worker.member import Member
from atelier_worker.status import is_live, is_ready, metrics_text, status_of
from service_kit.errors import FailedPrecondition
from service_kit.server import is_loopback
from service_kit.settings import SettingsError
from service_kit.telemetry import get_logger

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TEXT_TYPE = "text/plain; charset=utf-8"
_GRACE_S = 1
_MOST_AT_ONCE = 32

Answer = tuple[int, str, str]
log = get_logger(__name__)


class StatusServer:
    """Answers four GETs. It tells nothing secret, and takes no orders."""

    def __init__(self, listen: str, members: Sequence[Member], *, insecure: bool = False) -> None:
        """Prepare to listen at `host:port`.

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
        self._server: uvicorn.Server | None = None
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
        """
        # Its lines tell of clients that break off, and of its own start.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._socket = self._bind()
        config = uvicorn.Config(
            self._serve, interface="asgi3", http="h11", ws="none", lifespan="off", loop="none",
            log_config=None, access_log=False,
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=_GRACE_S,
            limit_concurrency=_MOST_AT_ONCE,
        )  # fmt: skip
        config.load()
        # Its `serve` would take the process's signals: this is what it does without that.
        server = self._server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[self._socket])
        self._ticking = asyncio.create_task(server.main_loop(), name="status server")
        log.info("status_listens", port=self.port)

    async def stop(self) -> None:
        """Close."""
        if self._ticking is None or self._server is None or self._socket is None:
            return
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)
        await self._server.shutdown(sockets=[self._socket])

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

    async def _serve(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Answer one request, as an ASGI application."""
        status, kind, body = self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode() if scope["method"] != "HEAD" else b""})

    def _answer(self, method: str, path: str) -> Answer:
        if method not in ("GET", "HEAD"):
            return 405, _TEXT_TYPE, "This port takes GET.\n"
        match path:
            case "/live":
                return _yes_or_no(is_live(self._members), "No worker is left that could work.")
            case "/ready":
                return _yes_or_no(is_ready(self._members), "No worker is connected to a router.")
            case "/metrics":
                return 200, _METRICS_TYPE, metrics_text(self._members)
            case "/status":
                return 200, "application/json", json.dumps(status_of(self._members), indent=2) + "\n"
            case _:
                return 404, _TEXT_TYPE, "There are /live, /ready, /metrics and /status.\n"


def _yes_or_no(yes: bool, no: str) -> Answer:
    return (200, _TEXT_TYPE, "ok\n") if yes else (503, _TEXT_TYPE, f"{no}\n")

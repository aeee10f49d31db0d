"""A server for tests that block: in a thread of its own, on a free port, for one application after the other."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

_LIMIT_S = 20.0


class Server:
    """Serves the application that is in use. To start one for each test would take most of its time."""

    def __init__(self) -> None:
        self.url = ""
        self._app: Starlette | None = None
        self._loop = asyncio.new_event_loop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on to the application in use."""
        if self._app is None:
            raise RuntimeError("no application is in use")
        await self._app(scope, receive, send)

    @contextmanager
    def use(self, app: Starlette) -> Iterator[str]:
        """Serve an application until the context ends; return its address."""
        lifespan = app.router.lifespan_context(app)
        self._wait(lifespan.__aenter__())
        self._app = app
        try:
            yield self.url
        finally:
            self._app = None
            self._wait(lifespan.__aexit__(None, None, None))

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Listen until the context ends."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            config = uvicorn.Config(self, log_level="error", ws="websockets-sansio", lifespan="off")
            server = uvicorn.Server(config)
            thread = threading.Thread(target=self._serve, args=(server, listener), name="comfyui", daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.should_exit = server.force_exit = True
                thread.join(_LIMIT_S)
                self._loop.close()

    def _serve(self, server: uvicorn.Server, listener: socket.socket) -> None:
        self._loop.run_until_complete(server.serve(sockets=[listener]))

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT_S)

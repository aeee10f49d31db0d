"""Bare uvicorn: an application that sends the head of an event stream, and an event when it is told to."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from benchmarks.child import serve

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache, no-store")]


async def main() -> None:
    """Serve on a free port, which the parent asks for."""
    published = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
        await published.wait()
        await send({"type": "http.response.body", "body": b"event: state\ndata: {}\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            continue

    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    # As the gateway has it: the same implementation of HTTP, no access log.
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await serve({"port": lambda: {"port": listening.getsockname()[1]}, "publish": published.set})
    finally:
        server.should_exit = server.force_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(main())

"""An upstream that streams 64 tokens to whoever asks, as fast as they are taken: what the relays stand in front of.

`python -m benchmarks.load.upstream` says its port, and serves until its input ends. It answers every POST with the
same chat completion, streamed in chunks of one token each.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

TOKENS = 64


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1767225600, "model": "chat"}
    return b"data: " + json.dumps({**head, "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PARTS = [
    _HEAD + _framed(_chunk({"role": "assistant", "content": ""})),
    *(_framed(_chunk({"content": f" w{number}"})) for number in range(TOKENS)),
    _framed(_chunk({}, "stop")) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n",
]


class Upstream(asyncio.Protocol):
    """One connection, request after request."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = 0
            for line in self._received[:end].split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(self._received) < end + 4 + length:
                return
            self._received = self._received[end + 4 + length :]
            for part in _PARTS:
                self._transport.write(part)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())

"""Speaks HTTP by hand, for what a proper client would never send."""

from __future__ import annotations

import asyncio
import json
from typing import Any


async def exchange(port: int, content: bytes, *, limit_s: float = 5) -> tuple[int, dict[str, str], bytes]:
    """Send bytes and read until the server closes. Returns status, headers and body; status 0 when nothing came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(content)
        answer = await asyncio.wait_for(reader.read(), limit_s)
    finally:
        writer.close()
    if not answer:
        return 0, {}, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


def reason(body: bytes) -> Any:
    """Return the reason of an error in the native shape."""
    return json.loads(body)["error"]["reason"]

"""Reads server-sent events as a browser does, for tests."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Event:
    """One event; a comment has the name `comment`."""

    name: str
    id: str
    text: str

    @property
    def data(self) -> Any:
        return json.loads(self.text)


async def events(response: httpx.Response) -> AsyncGenerator[Event, None]:
    """Give the events and comments of a response as they arrive."""
    name, cursor, data = "message", "", ""
    async for line in response.aiter_lines():
        if not line:
            if data:
                yield Event(name, cursor, data)
            name, cursor, data = "message", "", ""
        elif line.startswith(":"):
            yield Event("comment", "", line[1:].strip())
        else:
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "id":
                cursor = value
            elif key == "data":
                data += value

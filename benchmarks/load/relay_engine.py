"""An engine that has its text from an upstream, token by token, as one around a model server has."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Mapping

from atelier_worker.engine import Context, EngineError, Task

UPSTREAM = "RELAY_UPSTREAM"
"""The variable that names the port of the upstream."""


class RelayEngine:
    """Passes on what the upstream writes."""

    name = "relay"
    concurrency = 32
    worker_types = ("chat",)
    stages = ("chat",)

    def __init__(self, options: Mapping[str, str]) -> None:
        self._port = int(os.environ[UPSTREAM])
        # Kept, as the proxies keep theirs.
        self._idle: list[http.client.HTTPConnection] = []

    def run(self, task: Task, context: Context) -> None:
        """Run one stage to its end."""
        if task.chat is None:
            raise EngineError("There is no conversation.")
        messages = [{"role": message.role, "content": message.content} for message in task.chat.messages]
        body = json.dumps({"model": task.model, "messages": messages, "stream": True})
        written = 0
        for event in self._events(body):
            (choice,) = json.loads(event)["choices"]
            if choice["delta"].get("content"):
                written += 1
                context.write(choice["delta"]["content"])
        context.finish("stop", prompt_tokens=1, completion_tokens=written)

    def _events(self, body: str) -> Iterator[bytes]:
        """Give the JSON of each event as it comes."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        received = b""
        with connection.getresponse() as reply:
            while data := reply.read1(1 << 16):
                *events, received = (received + data).split(b"\n\n")
                for event in events:
                    if event.startswith(b"data: {"):
                        yield event[6:]
        self._idle.append(connection)

    def close(self) -> None:
        """End the connections that are idle."""
        while self._idle:
            self._idle.pop().close()

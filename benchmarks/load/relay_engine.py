"""An engine that has its text from an upstream, token by token, as one around a model server has."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from contextlib import closing

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

    def run(self, task: Task, context: Context) -> None:
        """Run one stage to its end."""
        if task.chat is None:
            raise EngineError("There is no conversation.")
        messages = [{"role": message.role, "content": message.content} for message in task.chat.messages]
        body = json.dumps({"model": task.model, "messages": messages, "stream": True})
        written = 0
        with closing(http.client.HTTPConnection("127.0.0.1", self._port)) as connection:
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            with connection.getresponse() as reply:
                for line in reply:
                    if not line.startswith(b"data: {"):
                        continue
                    (choice,) = json.loads(line[6:])["choices"]
                    if choice["delta"].get("content"):
                        written += 1
                        context.write(choice["delta"]["content"])
        context.finish("stop", prompt_tokens=1, completion_tokens=written)

"""A stand-in for ComfyUI: a real server over HTTP and WebSocket that behaves as the recorded one does.

It runs graphs of the nodes in `nodes.py`, one after the other, and counts them. `test_recorded.py` compares what it
answers with what the real one answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.atelier_worker.comfyui.nodes import Failure, Graph, preview, problems, run_node, signature, upstream

Item = list[Any]


class Interrupted(Exception):
    """The prompt was stopped."""


@dataclass
class StandIn:
    """The server's state. `ran` holds the id of each prompt that was begun; `hold_at` is a step at which runs stop."""

    folder: Path
    hold_at: int | None = None
    ran: list[str] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    interrupts: int = 0
    saves: bytes | None = None
    takes_ids: bool = True
    url: str = ""
    _queue: list[Item] = field(default_factory=list)
    _running: Item | None = None
    _history: dict[str, Any] = field(default_factory=dict)
    _cached: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    _sockets: dict[str, WebSocket] = field(default_factory=dict)
    _with_metadata: set[str] = field(default_factory=set)
    _interrupted: bool = False

    def app(self) -> Starlette:
        """Return the server. It runs prompts as long as it is up."""
        routes = [
            Route("/system_stats", self._stats),
            Route("/object_info/{name}", self._object_info),
            Route("/prompt", self._take, methods=["POST"]),
            Route("/queue", self._show_queue),
            Route("/queue", self._change_queue, methods=["POST"]),
            Route("/interrupt", self._interrupt, methods=["POST"]),
            Route("/history/{prompt_id}", self._show_history),
            Route("/view", self._view),
            Route("/upload/image", self._upload, methods=["POST"]),
            WebSocketRoute("/ws", self._listen),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    def forget(self) -> None:
        """Be as after a restart: nothing waits, nothing is known of what ran."""
        self._queue, self._history, self._cached = [], {}, {}
        self._running, self._interrupted = None, True

    def remove_outputs(self) -> None:
        """Remove what was saved, as whoever tidies up does."""
        for file in (self.folder / "output").rglob("*.*"):
            file.unlink()

    def cut_sockets(self) -> None:
        """Close every socket."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(5)

    async def _cut(self) -> None:
        for socket in list(self._sockets.values()):
            await socket.close(1012)

    @property
    def waiting(self) -> list[str]:
        """The ids of what waits."""
        return [item[1] for item in self._queue]

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._more, self._loop = asyncio.Event(), asyncio.get_running_loop()
        work = asyncio.create_task(self._work())
        try:
            yield
        finally:
            await self._cut()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    # HTTP.

    async def _stats(self, request: Request) -> Response:
        recorded = Path(__file__).parents[2] / "data" / "comfyui" / "about.json"
        first = json.loads(recorded.read_text())[0]
        return JSONResponse(first["answer"]["json"])

    async def _object_info(self, request: Request) -> Response:
        recorded = Path(__file__).parents[2] / "data" / "comfyui" / "about.json"
        for event in json.loads(recorded.read_text()):
            if event["request"]["path"] == request.url.path:
                return JSONResponse(event["answer"]["json"])
        return JSONResponse({})

    async def _take(self, request: Request) -> Response:
        body = await request.json()
        if "prompt" not in body:
            said = "No prompt provided"
            error = {"type": "no_prompt", "message": said, "details": said, "extra_info": {}}
            return JSONResponse({"error": error, "node_errors": {}}, 400)
        refusal = problems(body["prompt"], self.folder)
        if refusal is not None:
            return JSONResponse(refusal, 400)
        self.taken.append(body)
        prompt_id = str(body["prompt_id"]) if self.takes_ids else f"own-{len(self.taken)}"
        number = len(self.taken) - 1
        extra = body.get("extra_data", {}) | {"client_id": body.get("client_id")}
        saving = [name for name, node in body["prompt"].items() if node["class_type"].startswith("Save")]
        self._queue.append([number, prompt_id, body["prompt"], extra, saving])
        self._more.set()
        await self._status()
        return JSONResponse({"prompt_id": prompt_id, "number": number, "node_errors": {}})

    async def _show_queue(self, request: Request) -> Response:
        running = [] if self._running is None else [self._running]
        return JSONResponse({"queue_running": running, "queue_pending": self._queue})

    async def _change_queue(self, request: Request) -> Response:
        for prompt_id in (await request.json()).get("delete", []):
            found = next((item for item in self._queue if item[1] == prompt_id), None)
            if found is not None:
                self._queue.remove(found)
        return Response()

    async def _interrupt(self, request: Request) -> Response:
        wanted = (await request.json()).get("prompt_id")
        if self._running is not None and wanted in (None, self._running[1]):
            self.interrupts += 1
            self._interrupted = True
        return Response()

    async def _show_history(self, request: Request) -> Response:
        prompt_id = request.path_params["prompt_id"]
        return JSONResponse({prompt_id: self._history[prompt_id]} if prompt_id in self._history else {})

    async def _view(self, request: Request) -> Response:
        names = request.query_params
        if names["filename"].startswith("/") or ".." in names["filename"]:
            return Response(status_code=400)
        file = self.folder / names.get("type", "output") / names.get("subfolder", "") / names["filename"]
        return FileResponse(file) if file.is_file() else Response(status_code=404)

    async def _upload(self, request: Request) -> Response:
        async with request.form() as form:
            image, subfolder = form["image"], str(form.get("subfolder", ""))
            if isinstance(image, str) or ".." in subfolder:
                return Response(status_code=400)
            target = self.folder / "input" / subfolder / str(image.filename)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(await image.read())
        return JSONResponse({"name": target.name, "subfolder": subfolder, "type": "input"})

    # The socket.

    async def _listen(self, socket: WebSocket) -> None:
        await socket.accept()
        client = socket.query_params.get("clientId", "")
        self._sockets[client] = socket
        await self._status(client)
        if self._running is not None and self._running[3].get("client_id") == client:
            await self._say(client, "executing", {"node": self._node})
        try:
            while True:
                message = await socket.receive_json()
                if message.get("type") == "feature_flags":
                    self._with_metadata.add(client)
                    flags = {"supports_preview_metadata": True, "max_upload_size": 104857600}
                    await self._say(client, "feature_flags", flags)
        except WebSocketDisconnect:
            # A client that goes leaves its prompts here, as with the real one.
            pass
        finally:
            if self._sockets.get(client) is socket:
                del self._sockets[client]
                self._with_metadata.discard(client)

    async def _status(self, client: str | None = None) -> None:
        left = len(self._queue) + (self._running is not None)
        data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": left}}}
        for one in list(self._sockets) if client is None else [client]:
            await self._say(one, "status", data | ({} if client is None else {"sid": client}))

    async def _say(self, client: str, kind: str, data: dict[str, Any]) -> None:
        await self._send(client, json.dumps({"type": kind, "data": data}))

    async def _send(self, client: str, frame: str | bytes) -> None:
        socket = self._sockets.get(client)
        if socket is None:
            return
        # Who has left in the meantime hears no more.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await (socket.send_text(frame) if isinstance(frame, str) else socket.send_bytes(frame))

    # Running.

    async def _work(self) -> None:
        while True:
            await self._more.wait()
            if not self._queue:
                self._more.clear()
                continue
            self._running = item = self._queue.pop(0)
            await self._status()
            await self._run(item)
            self._running = None
            await self._status()
            await self._say(item[3]["client_id"], "executing", {"node": None, "prompt_id": item[1]})

    async def _run(self, item: Item) -> None:
        _, prompt_id, graph, extra, _ = item
        self.ran.append(prompt_id)
        run = _Run(self, prompt_id, graph, extra["client_id"])
        self._interrupted = False
        status = {"status_str": "success", "completed": True, "messages": run.messages}
        try:
            await run.all(self._cached)
        except Failure as failure:
            status |= {"status_str": "error", "completed": False}
            node = {"prompt_id": prompt_id, "node_id": run.node, "executed": list(run.executed)}
            node["node_type"] = graph[run.node]["class_type"]
            said = {"exception_message": str(failure), "exception_type": failure.kind, "traceback": ["…"]}
            await run.tell("execution_error", node | said | {"current_inputs": {}, "current_outputs": []})
        except Interrupted:
            status |= {"status_str": "error", "completed": False}
            node = {"prompt_id": prompt_id, "node_id": run.node, "executed": list(run.executed)}
            await run.tell("execution_interrupted", node | {"node_type": graph[run.node]["class_type"]})
        if self._running is item:
            # Of what ran before only the last prompt is remembered.
            self._cached = {signature(graph, node): run.outputs.get(node) for node in run.executed}
            self._history[prompt_id] = {"prompt": item, "outputs": run.outputs, "status": status, "meta": run.meta}

    @property
    def _node(self) -> str:
        return self._last_node

    _last_node: str = ""


class _Run:
    """One prompt in the making."""

    def __init__(self, server: StandIn, prompt_id: str, graph: Graph, client: str) -> None:
        self.node = ""
        self.executed: list[str] = []
        self.messages: list[list[Any]] = []
        self.outputs: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        self._server, self._id, self._graph, self._client = server, prompt_id, graph, client

    async def tell(self, kind: str, data: dict[str, Any]) -> None:
        """Say something that also goes into the history."""
        data = data | {"timestamp": 1}
        self.messages.append([kind, data])
        await self._server._say(self._client, kind, data)

    async def all(self, cached: dict[str, dict[str, Any] | None]) -> None:
        """Run every node that an output needs."""
        await self.tell("execution_start", {"prompt_id": self._id})
        order = upstream(self._graph)
        known = [node for node in order if signature(self._graph, node) in cached]
        await self.tell("execution_cached", {"nodes": known, "prompt_id": self._id})
        for node in order:
            if node in known:
                await self._saved(node, cached[signature(self._graph, node)])
            else:
                self.node = self._server._last_node = node
                about = {"node": node, "display_node": node, "prompt_id": self._id}
                await self._server._say(self._client, "executing", about)
                await self._steps(node)
                await self._saved(node, run_node(self._graph, node, self._server.folder, self._server.saves))
            self.executed.append(node)
        await self.tell("execution_success", {"prompt_id": self._id})

    async def _steps(self, node: str) -> None:
        inputs = self._graph[node]["inputs"]
        for step in range(1, inputs.get("steps", 0) + 1):
            # Set by tests, in another thread.
            while self._held(step):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            if self._server._interrupted:
                raise Interrupted
            progress = {"value": step, "max": inputs["steps"], "prompt_id": self._id, "node": node}
            picture = preview(step, inputs["steps"])
            if self._client in self._server._with_metadata:
                names = ("node_id", "display_node_id", "real_node_id")
                about = dict.fromkeys(names, node) | {"prompt_id": self._id, "parent_node_id": None}
                metadata = json.dumps(about | {"image_type": "image/jpeg"}).encode()
                await self._server._send(self._client, struct.pack(">II", 4, len(metadata)) + metadata + picture)
                await self._server._say(self._client, "progress", progress)
            else:
                await self._server._say(self._client, "progress", progress)
                await self._server._send(self._client, struct.pack(">II", 1, 1) + picture)
            await asyncio.sleep(0)

    def _held(self, step: int) -> bool:
        hold_at = self._server.hold_at
        return hold_at is not None and step > hold_at and not self._server._interrupted

    async def _saved(self, node: str, output: dict[str, Any] | None) -> None:
        if output is not None:
            self.outputs[node] = output
            self.meta[node] = {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
            about = {"node": node, "display_node": node, "output": output, "prompt_id": self._id}
            await self._server._say(self._client, "executed", about)

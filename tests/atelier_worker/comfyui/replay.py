"""What the real ComfyUI answered, played back to whoever asks under an id of their own."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

RECORDED = Path(__file__).parents[2] / "data" / "comfyui"


def recorded(scenario: str) -> list[dict[str, Any]]:
    """Return the events of a scenario."""
    events: list[dict[str, Any]] = json.loads((RECORDED / f"{scenario}.json").read_text())
    return events


def part(scenario: str, prompt_id: str) -> list[dict[str, Any]]:
    """Return the events of one prompt: from when it was handed in until the next one was."""
    events = recorded(scenario)
    starts = [number for number, event in enumerate(events) if event.get("request", {}).get("path") == "/prompt"]
    begin = next(n for n in starts if events[n]["request"]["json"].get("prompt_id") == prompt_id)
    end = next((n for n in starts if n > begin), len(events))
    return events[begin:end]


class Replay:
    """Answers a prompt with the recorded frames, its history and its file. `submits` counts."""

    def __init__(self, scenario: str, prompt_id: str) -> None:
        self.submits = 0
        self._recorded_id = prompt_id
        self._events = part(scenario, prompt_id)
        self._over = False
        self._id = ""
        self._begun = asyncio.Event()

    def app(self) -> Starlette:
        """Return the server."""
        return Starlette(
            routes=[
                Route("/prompt", self._take, methods=["POST"]),
                Route("/queue", self._queue, methods=["GET", "POST"]),
                Route("/interrupt", self._queue, methods=["POST"]),
                Route("/history/{prompt_id}", self._history),
                Route("/view", self._view),
                Route("/upload/image", self._upload, methods=["POST"]),
                WebSocketRoute("/ws", self._listen),
            ]
        )

    def _answer(self, path: str) -> Response:
        for event in self._events:
            if event.get("request", {}).get("path") == path:
                answer = event["answer"]
                if "json" in answer:
                    return JSONResponse(self._under_its_id(answer["json"]), answer["status"])
                kind = answer["content_type"]
                return Response(base64.b64decode(answer["base64"]), answer["status"], media_type=kind or None)
        return Response(status_code=404)

    def _under_its_id(self, value: Any) -> Any:
        return json.loads(json.dumps(value).replace(f'"{self._recorded_id}"', f'"{self._id}"'))

    async def _take(self, request: Request) -> Response:
        self.submits += 1
        self._id = (await request.json())["prompt_id"]
        self._begun.set()
        return self._answer("/prompt")

    async def _queue(self, request: Request) -> Response:
        running = [[0, self._id, {}, {}, []]] if self._begun.is_set() and not self._over else []
        return JSONResponse({"queue_running": running, "queue_pending": []})

    async def _history(self, request: Request) -> Response:
        return self._answer(f"/history/{self._recorded_id}") if self._over else JSONResponse({})

    async def _view(self, request: Request) -> Response:
        return self._answer("/view")

    async def _upload(self, request: Request) -> Response:
        return JSONResponse({"name": "recorded.png", "subfolder": "atelier", "type": "input"})

    async def _listen(self, socket: WebSocket) -> None:
        await socket.accept()
        await self._begun.wait()
        for event in self._events:
            if "text" in event:
                await socket.send_text(json.dumps(self._under_its_id(event["text"])))
            elif "binary" in event:
                frame = base64.b64decode(event["binary"])
                await socket.send_bytes(self._with_its_id(frame))
        self._over = True
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            return

    def _with_its_id(self, frame: bytes) -> bytes:
        """The length of the metadata stands in front of them."""
        if frame[:4] != b"\x00\x00\x00\x04":
            return frame
        length = int.from_bytes(frame[4:8], "big")
        metadata = json.dumps(self._under_its_id(json.loads(frame[8 : 8 + length]))).encode()
        return frame[:4] + len(metadata).to_bytes(4, "big") + metadata + frame[8 + length :]

"""A ComfyUI that lies, stalls or never stops talking costs its own job, in bounded time, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from atelier_worker.engine import Cancelled, EngineError
from tests.atelier_worker.comfyui.conftest import MakeEngine
from tests.atelier_worker.comfyui.serving import Server
from tests.atelier_worker.comfyui.stand_in import StandIn
from tests.atelier_worker.comfyui.tasks import SMALL, Listener
from tests.support.hostile_files import png_of

_MANY = 2_000


def lying(comfyui: StandIn, *lies: Route | WebSocketRoute) -> Any:
    """The stand-in's application with some of its answers in place of the true ones."""
    app = comfyui.app()
    app.router.routes[:0] = lies
    return app


def answers(path: str, body: Any, status: int = 200) -> Route:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(request: Request) -> Response:
        said = content.replace(b"PROMPT", str(request.path_params.get("prompt_id", "")).encode())
        return Response(said, status, media_type="application/json")

    return Route(path, answer, methods=["POST" if path in ("/prompt", "/upload/image") else "GET"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/queue", [1, 2]),
        ("/queue", b'{"queue_running": [NaN'),
        ("/queue", b"[" * 100_000),
        ("/history/{prompt_id}", 7),
        ("/history/{prompt_id}", b'{"PROMPT": {"status": {"status_str": [1]}, "outputs": 3}}'),
        ("/history/{prompt_id}", b'{"PROMPT": {"status": 5, "outputs": {"9": {"images": [5, NaN, {"filename": 1}]}}}}'),
        ("/history/{prompt_id}", b'{"PROMPT": {"outputs": {"9": {"images": [{"filename": "../../x", "type": "."}]}}}}'),
        ("/prompt", ["no object"]),
        ("/prompt", {"prompt_id": {"no": "text"}}),
        ("/prompt", b"\xff\xfe"),
    ],
)  # fmt: skip
def test_an_answer_of_the_wrong_shape_fails_in_a_sentence(
    path: str, body: Any, comfyui: StandIn, server: Server, tmp_path: Path, make_engine: MakeEngine
) -> None:
    with server.use(lying(comfyui, answers(path, body))) as url, pytest.raises(EngineError, match=r"ComfyUI|workflow"):
        make_engine(url, "sdxl", reach_timeout="100ms").run(SMALL, Listener(tmp_path))


def test_a_redirect_is_not_followed(comfyui: StandIn, server: Server, tmp_path: Path, make_engine: MakeEngine) -> None:
    elsewhere = Route("/queue", lambda _: RedirectResponse("/history/elsewhere", 307), methods=["GET"])
    with server.use(lying(comfyui, elsewhere)) as url, pytest.raises(EngineError, match="answered 307 to GET /queue"):
        make_engine(url, "sdxl").run(SMALL, Listener(tmp_path))


def test_a_server_in_front_that_fails_for_a_moment_costs_nothing(
    comfyui: StandIn, server: Server, tmp_path: Path, make_engine: MakeEngine
) -> None:
    asked = []

    async def history(request: Request) -> Response:
        asked.append(request)
        return Response(status_code=502) if len(asked) < 4 else await comfyui._show_history(request)

    listener = Listener(tmp_path)
    with server.use(lying(comfyui, Route("/history/{prompt_id}", history))) as url:
        make_engine(url, "sdxl").run(SMALL, listener)
    assert 0 in listener.delivered
    assert len(comfyui.ran) == 1


def test_a_socket_that_never_stops_talking_does_not_hide_the_end(
    comfyui: StandIn, server: Server, tmp_path: Path, make_engine: MakeEngine
) -> None:
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        data = {"prompt_id": socket.query_params["clientId"], "node": "3", "value": 1, "max": 3}
        try:
            while True:
                await socket.send_json({"type": "progress", "data": data})
                await asyncio.sleep(0.001)
        except (WebSocketDisconnect, RuntimeError):
            # The client has gone.
            return

    listener = Listener(tmp_path, cancel_when=lambda so_far: len(so_far.steps) > _MANY)
    with server.use(lying(comfyui, WebSocketRoute("/ws", talk))) as url:
        make_engine(url, "sdxl").run(SMALL, listener)
    assert 0 in listener.delivered


def test_who_is_told_of_the_end_again_and_again_does_not_ask_as_often(
    comfyui: StandIn, server: Server, tmp_path: Path, make_engine: MakeEngine
) -> None:
    comfyui.hold_at = 1
    told, looks = [0], [0]

    async def end(socket: WebSocket) -> None:
        await socket.accept()
        data = {"prompt_id": socket.query_params["clientId"]}
        try:
            for _ in range(200):
                told[0] += 1
                await socket.send_json({"type": "execution_success", "data": data})
            comfyui.hold_at = None
            await socket.receive_json()
        except (WebSocketDisconnect, RuntimeError):
            # The client has gone.
            return

    async def history(request: Request) -> Response:
        looks[0] += 1
        return await comfyui._show_history(request)

    listener = Listener(tmp_path)
    with server.use(lying(comfyui, WebSocketRoute("/ws", end), Route("/history/{prompt_id}", history))) as url:
        make_engine(url, "sdxl").run(SMALL, listener)
    assert 0 in listener.delivered
    assert looks[0] < told[0]


def trickle(begun: threading.Event) -> Callable[[Request], Any]:
    """An answer that never ends: white space, byte by byte, which JSON allows."""

    async def drops() -> AsyncIterator[bytes]:
        while True:
            begun.set()
            yield b" "
            await asyncio.sleep(0.01)

    async def answer(_: Request) -> Response:
        return StreamingResponse(drops(), media_type="application/json")

    return answer


@pytest.mark.parametrize("path", ["/queue", "/history/{prompt_id}", "/view"])
def test_a_job_is_cancelled_though_an_answer_trickles(
    path: str, comfyui: StandIn, server: Server, tmp_path: Path, make_engine: MakeEngine
) -> None:
    begun = threading.Event()
    with server.use(lying(comfyui, Route(path, trickle(begun), methods=["GET"]))) as url:
        engine = make_engine(url, "sdxl", timeout="60s")
        began = time.monotonic()
        with pytest.raises(Cancelled):
            engine.run(SMALL, Listener(tmp_path, cancel_when=lambda _: begun.is_set()))
    assert time.monotonic() - began < 20, "not until the 60 seconds of an answer are over"


def test_an_answer_that_trickles_is_given_up(
    comfyui: StandIn, server: Server, tmp_path: Path, make_engine: MakeEngine
) -> None:
    lie = Route("/queue", trickle(threading.Event()), methods=["GET"])
    with server.use(lying(comfyui, lie)) as url, pytest.raises(EngineError) as raised:
        make_engine(url, "sdxl", timeout="100ms", reach_timeout="100ms").run(SMALL, Listener(tmp_path))
    assert raised.value.retryable


def test_a_queue_full_of_one_prompt_is_tidied_a_few_at_a_time(
    comfyui: StandIn, server: Server, tmp_path: Path, make_engine: MakeEngine
) -> None:
    looks, drops = [0], [0]

    async def queue(_: Request) -> Response:
        looks[0] += 1
        ids = [[0, str(body["prompt_id"])] for body in comfyui.taken[:1]]
        return JSONResponse({"queue_running": [], "queue_pending": ids * 5000})

    async def drop(_: Request) -> Response:
        drops[0] += 1
        return Response()

    lies = (Route("/queue", queue, methods=["GET"]), Route("/queue", drop, methods=["POST"]))
    with server.use(lying(comfyui, *lies)) as url:
        make_engine(url, "sdxl").run(SMALL, Listener(tmp_path))
    assert drops[0] <= 4 * looks[0]


def test_a_small_file_that_is_a_very_large_picture_is_not_unpacked(
    comfyui: StandIn, tmp_path: Path, make_engine: MakeEngine
) -> None:
    comfyui.saves = png_of(9_000, 9_000)
    with pytest.raises(EngineError, match="made a picture of 9000 × 9000, which is too large"):
        make_engine(comfyui.url, "sdxl").run(SMALL, Listener(tmp_path))
    comfyui.saves = None
    (tmp_path / "next").mkdir()
    listener = Listener(tmp_path / "next")
    make_engine(comfyui.url, "sdxl").run(replace(SMALL, seed=8), listener)
    assert 0 in listener.delivered

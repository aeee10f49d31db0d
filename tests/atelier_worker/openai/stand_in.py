"""A stand-in for an upstream: a real HTTP server that answers as a test says, and keeps what it was asked."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import io
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from atelier_worker.engine import Chat, Message, Task
from atelier_worker.engines.openai_engine import OpenAIEngine
from tests.atelier_worker.engines.listener import IMAGE, Listener

Answer = Callable[["Exchange"], None]


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer; `gone` tells whether the client closed the connection."""

    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.stand_in.asked.append(
            Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        )
        self.close_connection = True
        self.stand_in.next_answer()(self)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def head(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()

    def piece(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def wait_until_gone(self) -> bool:
        """Wait for the client to close the connection; False after ten seconds in which it did not."""
        self.connection.settimeout(10)
        try:
            return not self.connection.recv(1)
        except ConnectionError:
            return True
        except TimeoutError:
            return False


@dataclass
class StandIn:
    """`answers` are used up in order, and the last one again and again."""

    answers: deque[Answer] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def next_answer(self) -> Answer:
        return self.answers.popleft() if len(self.answers) > 1 else self.answers[0]

    def answer(self, *answers: Answer) -> None:
        self.answers.extend(answers)


@contextmanager
def stand_in() -> Iterator[StandIn]:
    one = StandIn()
    handler = type("Handler", (Exchange,), {"stand_in": one})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    one.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def event(content: str = "", finish: str | None = None, usage: tuple[int, int] | None = None) -> bytes:
    """One event of a conversation, as servers write them."""
    chunk: dict[str, Any] = {"object": "chat.completion.chunk", "choices": []}
    if content or finish:
        chunk["choices"] = [{"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}]
    if usage:
        chunk["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return f"data: {json.dumps(chunk)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def streams(*pieces: bytes, cut: bool = False) -> Answer:
    """Answer with a stream of events; `cut` ends it in the middle of a chunk."""

    def answer(exchange: Exchange) -> None:
        exchange.head(200, ("content-type", "text/event-stream; charset=utf-8"), ("transfer-encoding", "chunked"))
        for piece in pieces:
            exchange.piece(b"%x\r\n%s\r\n" % (len(piece), piece))
        exchange.piece(b"ff\r\ndata:" if cut else b"0\r\n\r\n")

    return answer


def says(status: int, body: object = None, *headers: tuple[str, str]) -> Answer:
    """Answer with JSON, or with bytes as they are."""

    def answer(exchange: Exchange) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        exchange.head(status, ("content-type", "application/json"), ("content-length", str(len(data))), *headers)
        exchange.piece(data)

    return answer


def refuses(status: int, message: str, code: str | None = None, *headers: tuple[str, str]) -> Answer:
    """Answer with an error in the form of the API."""
    return says(status, {"error": {"message": message, "code": code, "type": "error"}}, *headers)


def picture(width: int = 64, height: int = 48, kind: str = "PNG", colour: str = "teal") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, kind)
    return out.getvalue()


def encoded(*pictures: bytes, **more: object) -> Answer:
    """Answer with pictures."""
    return says(200, {"created": 1, "data": [{"b64_json": base64.b64encode(one).decode()} for one in pictures], **more})


def form_of(asked: Asked) -> dict[str, bytes]:
    """The fields and files of a request that is a form."""
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + asked.body)
    form: dict[str, bytes] = {}
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        form[str(part.get_param("name", header="content-disposition"))] = content if isinstance(content, bytes) else b""
    return form


@dataclass
class Heard(Listener):
    """Also keeps phases, log lines and failures."""

    phases: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        self.phases.append(phase)
        super().progress(step, steps, asset_index=asset_index, phase=phase)

    def log(self, line: str) -> None:
        self.lines.append(line)
        super().log(line)

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        self.failed[asset_index] = reason


class Time:
    """A clock that moves only while somebody sleeps by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def engine_for(upstream: StandIn, time: Time | None = None, **changes: Any) -> OpenAIEngine:
    """An engine in front of a stand-in; `changes` go into its table, `model` into the table of its model."""
    model = {"name": "chat", "source": "Qwen/Qwen3-8B", "serves": ["chat", "enhance"], **changes.pop("model", {})}
    table = {"engine": "openai", "url": upstream.url, "models": [model], **changes}
    time = time or Time()
    return OpenAIEngine(table, clock=time.clock, sleep=time.sleep)


def asks(text: str = "What do you see?", **changes: Any) -> Task:
    """A conversation of two messages."""
    chat = Chat((Message("system", "Be brief."), Message("user", text)), **changes)
    return Task(**{**_fields(IMAGE), "stage": "chat", "format": None, "model": "chat", "chat": chat, "indexes": ()})


def _fields(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in task.__dataclass_fields__}


def heard(tmp_path: Path, **changes: Any) -> Heard:
    return Heard(tmp_path, **changes)

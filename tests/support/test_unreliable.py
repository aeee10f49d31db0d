"""The proxy that fails: what it lets through, and that a fault comes only after the request has arrived."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.http import Message, Receive, Send
from gateway.web_server import WebServer
from tests.support.unreliable import Fault, unreliable, unreliable_thread


class Echo:
    """Answers with the body; counts what it has got."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, str]]:
    app = Echo()
    server = WebServer(app, "127.0.0.1:0")
    await server.start()
    yield app, f"http://127.0.0.1:{server.port}"
    await server.stop()


async def _chunks() -> AsyncIterator[bytes]:
    yield b"in "
    yield b"pieces"


async def test_what_is_not_to_fail_passes(echo: tuple[Echo, str]) -> None:
    app, url = echo
    async with unreliable(url, {}) as proxy, httpx.AsyncClient(base_url=proxy.url, trust_env=False) as http:
        assert (await http.post("/a?b=c", content=b"whole", headers={"x-note": "n"})).content == b"whole"
        assert (await http.post("/d", content=_chunks())).content == b"in pieces"
    assert [(seen.method, seen.path, seen.fault) for seen in proxy.requests] == [
        ("POST", "/a?b=c", None),
        ("POST", "/d", None),
    ]
    assert (proxy.requests[0].headers["x-note"], app.bodies) == ("n", [b"whole", b"in pieces"])


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.CUT, Fault.SILENCE])
async def test_the_chosen_request_fails_after_it_has_been_served(echo: tuple[Echo, str], fault: Fault) -> None:
    app, url = echo
    async with unreliable(url, {2: fault}) as proxy, httpx.AsyncClient(base_url=proxy.url, trust_env=False) as http:
        await http.post("/", content=b"1")
        assert (await http.get("/")).status_code == 200, "it does not count"
        if fault is Fault.ERROR:
            assert (await http.post("/", content=b"2")).status_code == 500
        else:
            with pytest.raises(httpx.TransportError):
                await http.post("/", content=b"2", timeout=1)
        assert app.bodies == [b"1", b"", b"2"]
        assert (await http.post("/", content=b"3")).content == b"3"


def test_it_runs_beside_a_client_that_blocks() -> None:
    with unreliable_thread("http://127.0.0.1:1", {}) as proxy, httpx.Client(trust_env=False) as http:
        # Nothing listens behind it: the client sees a connection that ends.
        with pytest.raises(httpx.TransportError):
            http.post(proxy.url, content=b"x")
    assert [seen.body for seen in proxy.requests] == [b"x"]

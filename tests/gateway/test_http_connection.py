"""One connection by hand: what is taken, what is refused, and that nobody can make us read it otherwise than it is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from gateway.http import Message, Receive, Send
from gateway.web_server import WebServer
from tests.gateway.raw import exchange, reason

HOST = b"Host: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Told:
    """An application that answers `ok` once it has the whole body, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.headers: dict[bytes, bytes] = {}
        self.gone = asyncio.Event()
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.begun.set()
        await self.go.wait()
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            body += message["body"]
            more = message["more_body"]
        self.asked.append((scope["method"], scope["raw_path"].decode(), body))
        self.headers = dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def told() -> Told:
    return Told()


@pytest.fixture
async def port(told: Told) -> AsyncIterator[int]:
    server = WebServer(told, "127.0.0.1:0")
    await server.start()
    yield server.port
    told.go.set()
    await server.stop()


def _get(headers: bytes = b"", path: bytes = b"/") -> bytes:
    return b"GET %s HTTP/1.1\r\n%sConnection: close\r\n%s\r\n" % (path, HOST, headers)


def _post(headers: bytes, body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n%sConnection: close\r\n%s\r\n%s" % (HOST, headers, body)


@pytest.mark.parametrize(
    "content",
    [
        # Two lengths, or one that is none: whoever stands before us may believe the other.
        _post(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n"),
        _post(CHUNKED + b"Content-Length: 5\r\n", b"0\r\n\r\n"),
        _post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"xy"),
        _post(b"Content-Length: 1, 2\r\n", b"xy"),
        *(
            _post(b"Content-Length:%s\r\n" % said, b"x" * 11)
            for said in (b"", b" +1", b" -1", b" 0x1", b" 1_0", b" 1 1")
        ),
        _post(b"Content-Length: 99999999999999999999999\r\n", b"x"),
        # A transfer coding besides chunked, or chunked under another spelling.
        *(
            _post(b"Transfer-Encoding: %s\r\n" % said, b"0\r\n\r\n")
            for said in (
                *(b"gzip, chunked", b"chunked, chunked", b"chunked, identity", b"identity", b"xchunked", b",chunked"),
                *(b'"chunked"', b"chunked;q=1", b"\x0bchunked", b"chunked\x00", b""),
            )
        ),
        _post(CHUNKED + CHUNKED, b"0\r\n\r\n"),
        _post(CHUNKED + b"Transfer-Encoding: identity\r\n", b"0\r\n\r\n"),
        _post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
        _post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
        b"POST / HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
        # Lines that end, or go on, as others may not see.
        _get(b"X: a\r\n b\r\n"),
        _get(b"X: a\r\n\tb\r\n"),
        _get(b"X: a\nY: b\r\n"),
        _get(b"X: a\rY: b\r\n"),
        _get(b"X: a\x00b\r\n"),
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\n X: y\r\nHost: localhost\r\n\r\n",
        _get(b"X : a\r\n"),
        _get(b": a\r\n"),
        _get(b"X(: a\r\n"),
        # Whom, what and in which version is asked.
        b"GET / HTTP/1.1\r\n\r\n",
        _get(b"Host: other\r\n"),
        *(b"GET / HTTP/%s\r\n%s\r\n" % (version, HOST) for version in (b"0.9", b"1.2", b"2.0", b"01.1", b"1.1 ")),
        b"GET /\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT other:443 HTTP/1.1\r\n" + HOST + b"\r\n",
        *(_get(path=path) for path in (b"/a b", b"/a\tb", b"/a\x00b", b"/a\x7fb", b"/a\xffb", b"/a\x0cb", b"/a\rb")),
    ],
)
async def test_what_others_may_read_otherwise_is_refused(told: Told, port: int, content: bytes) -> None:
    status, headers, body = await exchange(port, content)
    assert (status, reason(body), headers["connection"]) == (400, "malformed_request", "close")
    assert told.asked == []


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"%s\r\nx\r\n0\r\n\r\n" % size
            for size in (b"0x1", b"+1", b"-1", b" 1", b"1 ", b"", b";x", b"10000000000000001")
        ),
        *(b"1\nx\n0\n\n", b"1\nx\r\n0\r\n\r\n", b"1\r\nx\n0\r\n\r\n", b"1\rx\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\n\n"),
        *(b"1\r\nx0\r\n\r\n", b"1\r\nxyz\r\n0\r\n\r\n", b"1;a\nb\r\nx\r\n0\r\n\r\n", b"1;a\rb\r\nx\r\n0\r\n\r\n"),
        *(
            b"1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n",
            b"1\r\nx\r\n0\r\n" + CHUNKED + b"\r\n",
            b"1\r\nx\r\n0\r\nodd\r\n\r\n",
        ),
    ],
)
async def test_a_body_in_odd_chunks_is_refused_and_never_whole(told: Told, port: int, body: bytes) -> None:
    status, _, answer = await exchange(port, _post(CHUNKED, body))
    assert (status, reason(answer)) == (400, "malformed_request")
    await asyncio.wait_for(told.gone.wait(), 5)
    assert told.asked == []


async def test_trailers_are_no_headers(told: Told, port: int) -> None:
    tail = b"1\r\nx\r\n0\r\nAuthorization: Bearer other\r\nX-Api-Key: other\r\n\r\n"
    assert (await exchange(port, _post(CHUNKED, tail)))[0] == 200
    assert told.asked == [("POST", "/", b"x")]
    assert set(told.headers) == {b"host", b"connection", b"transfer-encoding"}


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"POST / HTTP/1.1\r\n%s%s\r\n1\r\nx\r\n0\r\n" % (HOST, CHUNKED), b"X-Trailer: y\r\n"),
        (b"POST / HTTP/1.1\r\n%s%s\r\n1;" % (HOST, CHUNKED), b"extension"),
        (b"", b"\r\n"),
    ],
)
async def test_nothing_that_is_neither_head_nor_body_grows_without_end(
    told: Told, port: int, begin: bytes, more: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begin)
    if begin:
        await asyncio.wait_for(told.begun.wait(), 5)
    writer.write(more * (65_536 // len(more)))
    # The answer is lost where the connection is closed while more of it comes.
    assert (await asyncio.wait_for(_read_to_the_end(reader), 5))[:13] in (b"HTTP/1.1 400 ", b"")
    writer.close()
    if begin:
        await asyncio.wait_for(told.gone.wait(), 5)
    assert told.asked == []


async def test_names_and_values_are_what_stands_between_them(told: Told, port: int) -> None:
    assert (await exchange(port, _get(b"Empty:\r\nX-MiXed:\t a  b \t\r\nLast:\r\n", path=b"/a%2Fb?c=d?e")))[0] == 200
    assert told.asked == [("GET", "/a%2Fb", b"")]
    found = {name: told.headers[name] for name in (b"empty", b"x-mixed", b"last")}
    assert found == {b"empty": b"", b"x-mixed": b"a  b", b"last": b""}


async def test_pieces_make_the_same_request(told: Told, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for byte in _post(CHUNKED, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"):
        writer.write(bytes([byte]))
        await writer.drain()
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert told.asked == [("POST", "/", b"abcde")]


async def test_requests_follow_each_other_on_a_connection(told: Told, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for path in (b"/1", b"/2"):
        writer.write(b"\r\nPOST %s HTTP/1.1\r\n%sContent-Length: 1\r\n\r\nx" % (path, HOST))
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert told.asked == [("POST", "/1", b"x"), ("POST", "/2", b"x")]


@pytest.mark.parametrize("ahead", [b"GET /2 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"nonsense\r\n\r\n", b"\x00"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_what_comes_ahead_of_an_answer_is_not_read(told: Told, port: int, ahead: bytes, at_once: bool) -> None:
    told.go.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    first = b"POST /1 HTTP/1.1\r\n%sContent-Length: 1\r\n\r\nx" % HOST
    writer.write(first + ahead if at_once else first)
    await asyncio.wait_for(told.begun.wait(), 5)
    if not at_once:
        writer.write(ahead)
        await writer.drain()
        # Another connection is answered after what came on this one before.
        told.begun.clear()
        _, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(_get(path=b"/3"))
        await asyncio.wait_for(told.begun.wait(), 5)
        other.close()
    told.go.set()
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    # It is closed behind the answer, so that the client knows what was not read.
    assert (answer.count(b"HTTP/1.1 "), answer[:13], answer[-2:]) == (1, b"HTTP/1.1 200 ", b"ok")
    assert b"connection: close" in answer
    assert ("GET", "/2", b"") not in told.asked


async def test_a_wish_for_another_protocol_loses_no_body(told: Told, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    for lengths, body in ((b"Content-Length: 3\r\n", b"abc"), (CHUNKED, b"3\r\nabc\r\n0\r\n\r\n")):
        writer.write(b"POST /p HTTP/1.1\r\n%s%s%s\r\n%s" % (HOST, wish, lengths, body))
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert told.asked == [("POST", "/p", b"abc")] * 2


async def test_http_1_0_is_answered_without_chunks() -> None:
    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one ", b"two ", b""):
            await send({"type": "http.response.body", "body": piece, "more_body": bool(piece)})

    server = WebServer(stream, "127.0.0.1:0")
    await server.start()
    status, headers, body = await exchange(server.port, b"GET / HTTP/1.0\r\n\r\n")
    assert (status, headers["connection"], "transfer-encoding" in headers, body) == (200, "close", False, b"one two ")
    _, headers, body = await exchange(server.port, b"GET / HTTP/1.1\r\n%sConnection: close\r\n\r\n" % HOST)
    assert (headers["transfer-encoding"], body) == ("chunked", b"4\r\none \r\n4\r\ntwo \r\n0\r\n\r\n")
    await server.stop()


async def test_http_1_0_may_be_told_the_length(told: Told, port: int) -> None:
    status, headers, body = await exchange(port, b"GET / HTTP/1.0\r\n\r\n")
    assert (status, headers["content-length"], body) == (200, "2", b"ok")


async def test_a_body_that_breaks_off_is_told(told: Told, port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\n%sContent-Length: 10\r\n\r\nabc" % HOST)
    await asyncio.wait_for(told.begun.wait(), 5)
    writer.close()
    await asyncio.wait_for(told.gone.wait(), 5)
    assert told.asked == []


async def test_a_body_that_is_answered_early_holds_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http_connection._HEADER_TIMEOUT_S", 0.2)

    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    server = WebServer(refuse, "127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST / HTTP/1.1\r\n%sContent-Length: 10\r\n\r\nabc" % HOST)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 413 ")
    # One byte more must not stop the only clock.
    writer.write(b"d")
    assert await asyncio.wait_for(_read_to_the_end(reader), 5) == b""
    writer.close()
    await server.stop()


async def test_a_body_that_was_asked_about_and_refused_is_not_waited_for() -> None:
    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    server = WebServer(refuse, "127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST / HTTP/1.1\r\n%sContent-Length: 80\r\nExpect: 100-continue\r\n\r\n" % HOST)
    # What comes next may be another request, and would be taken for the body.
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    writer.close()
    await server.stop()


@pytest.mark.parametrize(
    ("version", "body", "begin"),
    [(b"1.1", b"", b"HTTP/1.1 100 "), (b"1.1", b"x", b"HTTP/1.1 200 "), (b"1.0", b"", b"HTTP/1.1 200 ")],
)
async def test_who_asks_is_told_to_send_the_body(
    told: Told, port: int, version: bytes, body: bytes, begin: bytes
) -> None:
    told.go.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asks = b"Content-Length: 2\r\nExpect: 100-continue\r\n"
    writer.write(b"POST / HTTP/%s\r\n%s%s\r\n%s" % (version, HOST, asks, body))
    await asyncio.wait_for(told.begun.wait(), 5)
    told.go.set()
    if begin.endswith(b"100 "):
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        begin = b"HTTP/1.1 200 "
    writer.write(b"xx"[len(body) :])
    assert (await asyncio.wait_for(reader.readuntil(b"ok"), 5)).startswith(begin)
    assert told.asked == [("POST", "/", b"xx")]
    writer.close()


async def test_connections_share_what_they_can(told: Told) -> None:
    told.go.clear()
    server = WebServer(told, "127.0.0.1:0")
    await server.start()
    writers = []
    for _ in range(10):
        told.begun.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(_get())
        writers.append(writer)
        await asyncio.wait_for(told.begun.wait(), 5)
    connections = list(server._server.server_state.connections)
    assert len(connections) == 10
    assert len({id(getattr(connection, "pipeline")) for connection in connections}) == 1  # noqa: B009 - uvicorn's
    # Names and values in a table of its own take 1,584 bytes.
    assert max(sys.getsizeof(vars(connection)) for connection in connections[1:]) < 800
    told.go.set()
    for writer in writers:
        writer.close()
    await server.stop()


async def _read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""

"""The client for addresses that others name: it connects only to what was checked, and never for long."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from service_kit.destinations import Destinations, IPAddress, Refused
from service_kit.outgoing import Outgoing, Unreachable, open_tls
from service_kit.settings import SettingsError
from tests.gateway.receivers import Certificates, make_certificates

Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
_LOOPBACK = ipaddress.ip_address("127.0.0.1")
_SECRET_CHUNK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nsecret"
_SOON = timedelta(seconds=0.3)
_ENOUGH = timedelta(seconds=5)


@dataclass
class Site:
    """A server on loopback that answers as a test says, and notes what it was asked."""

    serve: Serve
    port: int = 0
    asked: list[bytes] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            await self.serve(head, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


Open = Callable[..., Awaitable[Site]]


@pytest.fixture
async def open_site() -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_(serve: Serve, tls: ssl.SSLContext | None = None) -> Site:
            site = Site(serve)
            server = await asyncio.start_server(site.talk, "127.0.0.1", 0, ssl=tls)
            site.port = server.sockets[0].getsockname()[1]

            async def close() -> None:
                server.close()
                await server.wait_closed()

            stack.push_async_callback(close)
            return site

        yield open_


def says(status: str, body: bytes = b"", *headers: str) -> Serve:
    async def serve(_head: bytes, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return serve


class Names:
    """A name server that answers, in turn, what a test says."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[IPAddress]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ipaddress.ip_address(text) for text in answer]


def client(*allow: str, names: Names | None = None, tls: ssl.SSLContext | None = None) -> Outgoing:
    return Outgoing(Destinations(allow), names or Names(["127.0.0.1"]), tls or open_tls(""))


async def fetch(outgoing: Outgoing, url: str, *, limit: timedelta = _ENOUGH, max_bytes: int = 1000) -> bytes:
    async with outgoing.get(url, accept="*/*", limit=limit, max_bytes=max_bytes) as fetched:
        return b"".join([chunk async for chunk in fetched.chunks])


async def post(outgoing: Outgoing, url: str, limit: timedelta = _ENOUGH) -> int:
    return await outgoing.post(url, b"{}", {}, limit=limit)


async def test_a_file_comes_from_the_address_that_was_checked(open_site: Open) -> None:
    site = await open_site(says("200 OK", b"bytes"))
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    assert await fetch(client("files.example", names=names), f"http://files.example:{site.port}/a?b=c") == b"bytes"
    assert names.asked == 1, "the name is resolved once: a second answer could be another"
    assert site.asked[0].startswith(f"GET /a?b=c HTTP/1.1\r\nhost: files.example:{site.port}\r\n".encode())
    assert b"accept-encoding: identity" in site.asked[0]


async def test_a_name_that_leads_inside_is_not_connected_to(open_site: Open) -> None:
    site = await open_site(says("200 OK"))
    for inside in (["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["169.254.169.254"]):
        with pytest.raises(Refused, match="not public"):
            await fetch(client(names=Names(inside)), "https://files.example/")
        with pytest.raises(Refused, match="not public"):
            await post(client(names=Names(inside)), "https://hooks.example/")
    with pytest.raises(Refused):
        await fetch(client("10.0.0.0/8", names=Names(["127.0.0.1"])), f"http://files.example:{site.port}/")
    assert site.asked == []


async def test_a_name_that_moves_inside_after_a_redirect_is_refused(open_site: Open) -> None:
    """DNS rebinding: allowed the first time, loopback the second."""
    site = await open_site(says("302 Found", b"", "location: /again"))
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    with pytest.raises(Refused, match="not public"):
        await fetch(client("127.0.0.1/32", names=names), f"http://files.example:{site.port}/")
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    "location",
    [
        *(
            "http://127.0.0.2:{port}/",
            "//127.0.0.2/",
            "http://0x7f000002/",
            "http://[::1]:{port}/",
            "file:///etc/passwd",
        ),
        *("http://user@127.0.0.1:{port}/", "https://169.254.169.254/", "http://files.example:22/"),
    ],
)
async def test_each_redirect_is_checked_like_the_url(open_site: Open, location: str) -> None:
    inside = await open_site(says("200 OK", b"secret"))
    site = await open_site(says("302 Found", b"", "location: " + location.format(port=inside.port)))
    outgoing = client("127.0.0.1/32", names=Names(["93.184.216.34"]))
    with pytest.raises(Refused):
        await fetch(outgoing, f"http://127.0.0.1:{site.port}/")
    assert inside.asked == []


async def test_redirects_are_counted(open_site: Open) -> None:
    site = await open_site(says("307 Temporary Redirect", b"", "location: /again"))
    with pytest.raises(Refused, match="more than 3 times"):
        await fetch(client("127.0.0.1/32"), f"http://127.0.0.1:{site.port}/")
    assert len(site.asked) == 4


async def test_a_post_follows_no_redirect(open_site: Open) -> None:
    site = await open_site(says("307 Temporary Redirect", b"", "location: /again"))
    assert await post(client("127.0.0.1/32"), f"http://127.0.0.1:{site.port}/") == 307
    assert len(site.asked) == 1


async def test_a_server_that_never_answers_is_given_up(open_site: Open) -> None:
    over = asyncio.Event()

    async def silent(_head: bytes, writer: asyncio.StreamWriter) -> None:
        await over.wait()

    site = await open_site(silent)
    try:
        with pytest.raises(Unreachable, match=r"did not answer in full within 0\.3 s"):
            await post(client("127.0.0.1/32"), f"http://127.0.0.1:{site.port}/", _SOON)
    finally:
        over.set()


async def test_a_body_that_drips_or_never_ends_is_given_up(open_site: Open) -> None:
    async def drip(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def endless(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    outgoing = client("127.0.0.1/32")
    slow, big = await open_site(drip), await open_site(endless)
    with pytest.raises(Unreachable, match="in full"):
        await fetch(outgoing, f"http://127.0.0.1:{slow.port}/", limit=_SOON)
    with pytest.raises(Refused, match="larger than 1000 bytes"):
        await fetch(outgoing, f"http://127.0.0.1:{big.port}/")
    # Who answered has taken it, however long the rest takes.
    assert await post(outgoing, f"http://127.0.0.1:{slow.port}/", timedelta(seconds=1)) == 200


async def test_a_header_that_never_ends_is_given_up(open_site: Open) -> None:
    async def headers(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x: " + b"y" * 1000 + b"\r\n")
            await writer.drain()

    site = await open_site(headers)
    with pytest.raises(Unreachable, match="not HTTP"):
        await post(client("127.0.0.1/32"), f"http://127.0.0.1:{site.port}/")


@pytest.mark.parametrize("said", [b"SSH-2.0-secret", b"HTTP/1.1 200 OK\r\nsecret\r\n\r\n", _SECRET_CHUNK])
async def test_what_is_no_http_is_not_repeated(open_site: Open, said: bytes) -> None:
    async def other(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(said + b"\r\n\r\n")

    site = await open_site(other)
    with pytest.raises(Unreachable, match="not HTTP") as caught:
        await fetch(client("127.0.0.1/32"), f"http://127.0.0.1:{site.port}/")
    assert "secret" not in str(caught.value)


async def test_what_is_announced_too_large_or_compressed_is_not_read(open_site: Open) -> None:
    bomb = gzip.compress(b"\0" * 1_000_000)
    outgoing = client("127.0.0.1/32")
    site = await open_site(says("200 OK", bomb[:900], "content-encoding: gzip"))
    with pytest.raises(Refused, match="compressed"):
        await fetch(outgoing, f"http://127.0.0.1:{site.port}/")
    large = await open_site(says("200 OK", b"x" * 1001))
    with pytest.raises(Refused, match="larger than 1000 bytes"):
        await fetch(outgoing, f"http://127.0.0.1:{large.port}/")


async def test_a_body_that_breaks_off_is_an_error(open_site: Open) -> None:
    async def half(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")

    site = await open_site(half)
    with pytest.raises(Unreachable, match="broke off"):
        await fetch(client("127.0.0.1/32"), f"http://127.0.0.1:{site.port}/")


async def test_nobody_there_and_no_such_name() -> None:
    async def nothing(host: str, port: int) -> Sequence[IPAddress]:
        raise OSError("no such name")

    with pytest.raises(Unreachable, match="has no address"):
        await post(Outgoing(Destinations(), nothing, open_tls("")), "https://hooks.example/")
    with pytest.raises(Unreachable, match="no connection"):
        await post(client("127.0.0.1/32"), "http://127.0.0.1:1/")


async def test_a_proxy_of_the_environment_is_not_used(open_site: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, site = await open_site(says("200 OK")), await open_site(says("204 No Content"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert await post(client("127.0.0.1/32"), f"http://127.0.0.1:{site.port}/") == 204
    assert proxy.asked == []


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), "hooks.example")


async def test_tls_is_verified_against_the_name(open_site: Open, certificates: Certificates) -> None:
    site = await open_site(says("204 No Content"), certificates.server())
    trusting = open_tls(str(certificates.authority))
    url = f"https://hooks.example:{site.port}/"
    assert await post(client("127.0.0.1/32", tls=trusting), url) == 204
    with pytest.raises(Unreachable, match=r"certificate was not accepted.*CERTIFICATE_VERIFY_FAILED"):
        await post(client("127.0.0.1/32"), url)
    with pytest.raises(Unreachable, match="certificate"):
        await post(client("127.0.0.1/32", tls=trusting), f"https://other.example:{site.port}/")


def test_a_file_of_authorities_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"outgoing\.tls_ca"):
        open_tls(str(tmp_path / "missing.pem"))

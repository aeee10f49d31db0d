"""Signed media: whole, in part, unchanged, gone, forged; on both blob stores, or sent on to where one serves itself."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from email.utils import format_datetime
from urllib.parse import parse_qsl, urlsplit

import pytest

from service_kit.blobs import BlobInfo
from service_kit.clock import SystemClock
from service_kit.keyring import Keyrings
from tests.gateway.conftest import MakeWorld, World
from tests.support.gcs import CREDENTIALS_ENV

CONTENT = bytes(range(256)) * 40
KEY = "default/a%40b/x/0.png"


@pytest.fixture(params=["local", "gcs"])
async def world(request: pytest.FixtureRequest, make_world: MakeWorld) -> World:
    url = request.getfixturevalue("gcs_url") if request.param == "gcs" else ""
    return await make_world(blobs__url=url, blobs__redirect=False)


async def _put(world: World, content: bytes = CONTENT, *, key: str = KEY, content_type: str = "image/png") -> BlobInfo:
    return await world.gateway.store.put_bytes("workspace-temp", key, content, content_type=content_type)


def _sign(world: World, info: BlobInfo, ttl: timedelta = timedelta(hours=1)) -> str:
    signer = Keyrings(world.settings.keys_dir).media_signer("asset", SystemClock(), base_url="http://x")
    parts = urlsplit(signer.sign(info.bucket, info.key, info.generation, ttl).url)
    return f"{parts.path}?{parts.query}"


async def test_a_signed_address_needs_no_key_and_gives_the_bytes(world: World) -> None:
    url = _sign(world, await _put(world))
    response = await world.http.get(url)
    assert response.status_code == 200
    assert response.content == CONTENT
    headers = response.headers
    assert headers["content-type"] == "image/png"
    assert headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert headers["accept-ranges"] == "bytes"
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert "immutable" in headers["cache-control"] and "private" in headers["cache-control"]
    age = int(headers["cache-control"].split("max-age=")[1].split(",")[0])
    assert 3300 <= age <= 3600


async def test_head_tells_the_size_and_sends_nothing(world: World) -> None:
    url = _sign(world, await _put(world))
    response = await world.http.head(url)
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(CONTENT))
    assert response.headers["content-type"] == "image/png"
    assert response.content == b""


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=10000-", 10000, len(CONTENT) - 1),
        ("bytes=-5", len(CONTENT) - 5, len(CONTENT) - 1),
        ("bytes=0-999999999", 0, len(CONTENT) - 1),
        ("bytes=-999999999", 0, len(CONTENT) - 1),
    ],
)
async def test_a_range_gives_a_part(world: World, header: str, first: int, last: int) -> None:
    url = _sign(world, await _put(world))
    response = await world.http.get(url, headers={"range": header})
    assert response.status_code == 206
    assert response.content == CONTENT[first : last + 1]
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert response.headers["content-length"] == str(last - first + 1)
    head = await world.http.head(url, headers={"range": header})
    assert (head.status_code, head.headers["content-length"]) == (206, str(last - first + 1))


@pytest.mark.parametrize("header", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
async def test_a_range_beyond_the_end_is_416(world: World, header: str) -> None:
    url = _sign(world, await _put(world))
    response = await world.http.get(url, headers={"range": header})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert response.json()["error"]["reason"] == "out_of_range"


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=5-1", "items=0-1", "bytes=x-y", "bytes=-", ""])
async def test_a_range_that_is_not_served_gives_the_whole(world: World, header: str) -> None:
    url = _sign(world, await _put(world))
    response = await world.http.get(url, headers={"range": header})
    assert (response.status_code, response.content) == (200, CONTENT)


async def test_what_the_client_has_already_is_not_sent_again(world: World) -> None:
    url = _sign(world, await _put(world))
    etag = (await world.http.get(url)).headers["etag"]
    for header in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        response = await world.http.get(url, headers={"if-none-match": header})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
    changed = await world.http.get(url, headers={"if-none-match": '"other"'})
    assert changed.status_code == 200


async def test_a_time_stands_in_for_the_tag(world: World) -> None:
    info = await _put(world)
    url = _sign(world, info)
    written = format_datetime(info.created_at, usegmt=True)
    assert (await world.http.get(url)).headers["last-modified"] == written
    before = format_datetime(info.created_at - timedelta(seconds=1), usegmt=True)
    after = format_datetime(info.created_at + timedelta(days=1), usegmt=True)
    for since, status in ((written, 304), (after, 304), (before, 200), ("yesterday", 200), ("", 200)):
        response = await world.http.get(url, headers={"if-modified-since": since})
        assert response.status_code == status, since
    tagged = await world.http.get(url, headers={"if-modified-since": after, "if-none-match": '"other"'})
    assert tagged.status_code == 200, "the tag counts more"


async def test_if_range_guards_the_part(world: World) -> None:
    info = await _put(world)
    url = _sign(world, info)
    etag = (await world.http.get(url)).headers["etag"]
    written = format_datetime(info.created_at, usegmt=True)
    later = format_datetime(info.created_at + timedelta(seconds=1), usegmt=True)
    for condition, status in ((etag, 206), ('"other"', 200), (f"W/{etag}", 200), (written, 206), (later, 200)):
        response = await world.http.get(url, headers={"range": "bytes=0-3", "if-range": condition})
        assert (response.status_code, len(response.content)) == (status, 4 if status == 206 else len(CONTENT))


async def test_an_empty_file_is_served(world: World) -> None:
    response = await world.http.get(_sign(world, await _put(world, b"", key="empty.png")))
    assert (response.status_code, response.content) == (200, b"")


async def test_what_is_no_picture_is_not_shown_as_a_page(world: World) -> None:
    info = await _put(world, b"<script>", key="page", content_type="text/html")
    response = await world.http.get(_sign(world, info))
    assert response.headers["content-type"] == "application/octet-stream"


async def test_only_what_is_signed_is_served(world: World) -> None:
    info = await _put(world)
    other = await _put(world, b"secret", key="default/bob/y.png")
    url = _sign(world, info)
    quoted = KEY.replace("%", "%25")
    wrong = {
        "unsigned": url.partition("?")[0],
        "another key": url.replace(quoted, other.key),
        "another bucket": url.replace("workspace-temp", "user-library"),
        "later": url.replace("expires=", "expires=9"),
        "twice": url + "&g=1",
        "expired": _sign(world, info, timedelta(seconds=-5)),
        "a way out": f"/media/workspace-temp/..%2F..%2Fkeys/admin.key?{url.partition('?')[2]}",
    }
    for name, address in wrong.items():
        response = await world.http.get(address)
        assert response.status_code == 403, name
        assert response.json()["error"]["reason"] == "access_denied", name


async def test_a_blob_that_is_gone_is_404(world: World) -> None:
    info = await _put(world)
    url = _sign(world, info)
    await world.gateway.store.delete(info.bucket, info.key, info.generation)
    response = await world.http.get(url)
    assert (response.status_code, response.json()["error"]["reason"]) == (404, "not_found")


async def test_media_takes_only_get_and_head(world: World) -> None:
    response = await world.http.delete(_sign(world, await _put(world)))
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


async def test_whoever_asks_is_sent_on_to_where_the_store_serves(make_world: MakeWorld, gcs_url: str) -> None:
    world = await make_world(blobs__url=gcs_url)
    info = await _put(world)
    url = _sign(world, info)
    response = await world.http.get(url, headers={"range": "bytes=0-3"})
    assert (response.status_code, response.content) == (307, b"")
    age = int(response.headers["cache-control"].removeprefix("private, max-age="))
    query = dict(parse_qsl(urlsplit(response.headers["location"]).query))
    assert 3290 <= age <= int(query["X-Goog-Expires"]) <= 3600, "it never outlives the address that was asked for"
    assert query["generation"] == info.generation
    followed = await world.http.get(url, headers={"range": "bytes=0-3"}, follow_redirects=True)
    assert (followed.status_code, followed.content) == (206, CONTENT[:4])
    assert (await world.http.head(url)).headers["content-length"] == str(len(CONTENT))
    assert (await world.http.get(url.replace("sig=", "sig=A"))).status_code == 403
    origin = world.gateway.store.origin
    page = await world.http.get("/")
    assert f" {origin}" in page.headers["content-security-policy"], "pages may show what comes from there"


async def test_without_a_key_that_signs_the_gateway_serves(
    make_world: MakeWorld, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CREDENTIALS_ENV)
    world = await make_world(blobs__url=gcs_url)
    response = await world.http.get(_sign(world, await _put(world)))
    assert (response.status_code, response.content) == (200, CONTENT)

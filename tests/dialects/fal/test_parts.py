"""Files that fal's JavaScript client sends in parts, and what goes wrong on the way."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from gateway.dialects.fal import parts
from tests.dialects.conftest import damaged, png
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")

INITIATE = "https://rest.fal.ai/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"
SIZE = 1000
"""Of a part, here."""
NOISE = png(Image.frombytes("L", (64, 64), random.Random(7).randbytes(64 * 64)))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", SIZE)


def native(key: str) -> dict[str, str]:
    """Return the header of a call of our own API."""
    return {"authorization": f"Bearer {key}"}


@pytest_asyncio.fixture(loop_scope="session")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Key {system.key()}"}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False, timeout=20) as made:
        yield made


@dataclass
class Sending:
    """A file on its way: what the client was told, and what sends without a key."""

    told: dict[str, Any]
    anybody: httpx.AsyncClient

    def url(self, below: Any, grant: str = "") -> str:
        address, _, query = self.told["upload_url"].partition("?")
        return f"{address}/{below}?{grant or query}"

    @property
    def upload_id(self) -> str:
        return str(self.told["file_url"]).rpartition("/")[2]

    async def put(self, number: Any, content: bytes, status: int = 200) -> Any:
        response = await self.anybody.put(self.url(number), content=content)
        assert response.status_code == status, response.text
        return response.json()

    async def complete(self, answers: Any, status: int = 200) -> Any:
        response = await self.anybody.post(self.url("complete"), json={"parts": answers})
        assert response.status_code == status, response.text
        return response.json()


@pytest_asyncio.fixture(loop_scope="session")
async def sending(http: httpx.AsyncClient) -> AsyncIterator[Sending]:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as anybody:
        yield Sending(await initiated(http), anybody)


async def initiated(http: httpx.AsyncClient, **said: str) -> dict[str, Any]:
    body = {"content_type": "image/png", "file_name": "noise.png", **said}
    response = await http.post("/fal/proxy", json=body, headers={"x-fal-target-url": INITIATE})
    assert response.status_code == 200, response.text
    return dict(response.json())


def cut(content: bytes = NOISE) -> list[bytes]:
    return [content[start : start + SIZE] for start in range(0, len(content), SIZE)]


async def test_parts_become_a_file_however_often_they_come(
    sending: Sending, http: httpx.AsyncClient, system: System
) -> None:
    answers = [await sending.put(number, part) for number, part in enumerate(cut(), 1)]
    assert [answer["partNumber"] for answer in answers] == [1, 2, 3, 4, 5]
    # Answers were lost: of the first, of one in the middle, and of the last.
    for number in (1, 3, len(answers)):
        assert await sending.put(number, cut()[number - 1]) == answers[number - 1]
    for _ in range(2):
        await sending.complete(answers)
    # Native routes know it by the same id.
    asset = (await http.get(f"/v1/assets/{sending.upload_id}", headers=native(system.key()))).json()["asset"]
    assert (asset["media"]["size_bytes"], asset["filename"]) == (len(NOISE), "noise.png")
    size = {"image_size": {"width": 128, "height": 128}, "num_inference_steps": 2}
    body = {"prompt": "a heron", "image_url": sending.told["file_url"], **size}
    made = await http.post("/fal/run/fal-ai/sdxl/image-to-image", json=body)
    assert len(made.json()["images"]) == 1
    # It is closed now.
    await sending.put(1, cut()[0], 404)


async def test_a_part_that_broke_off_goes_on_where_it_ended(
    sending: Sending, http: httpx.AsyncClient, system: System
) -> None:
    first, *others = cut()
    kept = await http.patch(
        f"/v1/uploads/{sending.upload_id}?offset=0", content=first[:400], headers=native(system.key())
    )
    assert kept.json()["upload"]["received_bytes"] == 400
    answers = [await sending.put(number, part) for number, part in enumerate([first, *others], 1)]
    await sending.complete(answers)
    asset = (await http.get(f"/v1/assets/{sending.upload_id}", headers=native(system.key()))).json()["asset"]
    assert (await http.get(asset["url"])).content == NOISE


async def test_parts_come_in_order_and_have_their_size(sending: Sending) -> None:
    early = await sending.put(2, cut()[1], 409)
    assert early["detail"].startswith("Part 1 is to come before part 2")
    large = await sending.put(1, bytes(SIZE + 1), 413)
    assert str(SIZE) in large["detail"]
    await sending.put(1, b"", 422)
    for wrong in (0, 10_001, "x", "1.0", "9" * 30, "0000019", "000001" + "9" * 5000):
        await sending.put(wrong, b"x", 422)


async def test_a_short_part_is_the_last(sending: Sending) -> None:
    await sending.put(1, cut()[0][:-1])
    await sending.put(2, cut()[1], 409)


async def test_a_file_is_complete_with_all_its_parts_only(
    sending: Sending, http: httpx.AsyncClient, system: System
) -> None:
    pieces = cut()
    answers = [await sending.put(number, part) for number, part in enumerate(pieces[:-1], 1)]
    last = {"partNumber": len(pieces), "etag": f"{'0' * 32}-{len(pieces[-1])}"}
    missing = await sending.complete([*answers, last], 409)
    assert "go on from there" in missing["detail"]
    wrong: tuple[Any, ...] = (
        answers[1:],
        [answers[1], answers[0]],
        [{**answers[0], "etag": "x"}],
        [{"partNumber": 1}],
        ["x"],
        [{**answers[0], "etag": f"{'0' * 32}-7"}, answers[1]],
        [],
    )
    for said in wrong:
        await sending.complete(said, 422)
    # Fewer than have come are not the file either.
    await sending.complete(answers[:-1], 409)
    await sending.put(len(pieces), pieces[-1])
    await sending.complete([*answers, last])
    assert (await http.get(f"/v1/assets/{sending.upload_id}", headers=native(system.key()))).status_code == 200


async def test_what_is_no_picture_leaves_nothing(sending: Sending, http: httpx.AsyncClient, system: System) -> None:
    answer = await sending.put(1, b"no picture" * 10)
    await sending.complete([answer], 422)
    await sending.complete([answer], 404)
    assert (await http.get(f"/v1/assets/{sending.upload_id}", headers=native(system.key()))).status_code == 404


async def test_an_address_opens_its_own_file_only(sending: Sending, http: httpx.AsyncClient, system: System) -> None:
    assert (await sending.anybody.put(damaged(sending.url(1)), content=b"x")).status_code == 401
    told = await http.post("/fal/storage/upload/initiate", json={})
    whole = told.json()["upload_url"].partition("?")[2]
    for method, below in (("PUT", 1), ("POST", "complete")):
        crossed = await sending.anybody.request(method, sending.url(below, whole), json={"parts": []})
        assert crossed.status_code == 401
    async with system.client() as operator:
        key = await operator.create_key("bob", kind="user")
    other = {"authorization": f"Key {key.secret}"}
    assert (await http.get(f"/v1/uploads/{sending.upload_id}", headers=native(key.secret))).status_code == 404
    answers = [await sending.put(number, part) for number, part in enumerate(cut(), 1)]
    await sending.complete(answers)
    body = {"prompt": "a heron", "image_url": sending.told["file_url"]}
    refused = await http.post("/fal/run/fal-ai/sdxl/image-to-image", json=body, headers=other)
    assert refused.status_code in (400, 404, 422), refused.text


async def test_an_address_works_no_longer_than_its_key(http: httpx.AsyncClient, system: System) -> None:
    async with system.client() as operator:
        key = await operator.create_key("bob", kind="user")
        http.headers["authorization"] = f"Key {key.secret}"
        told = await initiated(http)
        await operator.revoke_key(key.key.key_id)
    async with httpx.AsyncClient(trust_env=False) as anybody:
        await Sending(told, anybody).put(1, cut()[0], 401)


async def test_an_owner_has_a_bounded_number_of_open_files(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, system: System
) -> None:
    monkeypatch.setattr("asset_service.resumable_uploads.MAX_OPEN", 1)
    async with system.client() as operator:
        http.headers["authorization"] = f"Key {(await operator.create_key('cleo', kind='user')).secret}"
    await initiated(http)
    response = await http.post("/fal/storage/upload/initiate-multipart", json={})
    assert (response.status_code, "1 uploads" in response.json()["detail"]) == (429, True)

"""OpenAI's own client, unmodified, makes images; its answers are parsed strictly."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from PIL import Image

from gateway.dialects.call import Call
from gateway.references import References
from tests.support.system import System
from tests.support.unreliable import Fault, unreliable

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def client(system: System) -> AsyncIterator[AsyncOpenAI]:
    async with strict(system) as made:
        yield made


def strict(system: System, base: str = "", retries: int = 0) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=f"{base or system.url}/openai/v1",
        api_key=system.key(),
        max_retries=retries,
        timeout=20,
        _strict_response_validation=True,
    )


def opened(text: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text or "")))


async def jobs_of(system: System) -> int:
    headers = {"x-api-key": system.key()}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False) as http:
        return len((await http.get("/v1/jobs?page_size=200")).json()["jobs"])


async def test_images_come_as_bytes(client: AsyncOpenAI) -> None:
    answer = await client.images.generate(
        prompt="a heron",
        model="sdxl",
        n=2,
        size="256x128",
        quality="low",
        user="u1",
        extra_body={"seed": 7, "negative_prompt": "fog"},
    )
    assert answer.data is not None
    assert [opened(image.b64_json).size for image in answer.data] == [(256, 128)] * 2
    assert answer.data[0].b64_json != answer.data[1].b64_json
    assert (answer.size, answer.quality, answer.output_format) == ("256x128", "low", "png")
    assert answer.usage is None


async def test_images_come_as_addresses_that_need_no_key(client: AsyncOpenAI) -> None:
    answer = await client.images.generate(prompt="a heron", model="sdxl", size="128x128", response_format="url")
    assert answer.data is not None
    assert answer.data[0].url is not None
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.get(answer.data[0].url)
    assert response.headers["content-type"] == "image/png"


async def test_the_same_seed_gives_the_same_bytes(client: AsyncOpenAI) -> None:
    first, second = [
        await client.images.generate(prompt="a heron", model="sdxl", size="128x128", extra_body={"seed": 0})
        for _ in range(2)
    ]
    assert first.data is not None
    assert second.data is not None
    assert first.data[0].b64_json == second.data[0].b64_json


async def test_a_stream_has_the_previews_of_the_worker_and_then_the_image(client: AsyncOpenAI) -> None:
    # Previews are told to who listens: the steps take long enough for the stream to begin before they are over.
    stream = await client.images.generate(
        prompt="a heron", model="sdxl", size="256x256", stream=True, partial_images=2, extra_body={"steps": 150}
    )
    events = [event async for event in stream]
    *partials, last = events
    assert partials
    assert len(partials) <= 2
    for number, event in enumerate(partials):
        assert event.type == "image_generation.partial_image"
        assert event.partial_image_index == number
        assert opened(event.b64_json).format == "WEBP"
    assert last.type == "image_generation.completed"
    assert opened(last.b64_json).size == (256, 256)
    assert last.usage.total_tokens == 0


async def test_images_are_edited(client: AsyncOpenAI, picture: bytes, mask: bytes) -> None:
    answer = await client.images.edit(
        image=[("a.png", picture), ("b.png", picture)], mask=mask, prompt="a heron", model="sdxl", n=1, size="128x128"
    )
    assert answer.data is not None
    assert opened(answer.data[0].b64_json).size == (128, 128)


async def test_an_edit_is_streamed(client: AsyncOpenAI, picture: bytes) -> None:
    stream = await client.images.edit(image=picture, prompt="a heron", model="sdxl", size="128x128", stream=True)
    assert [event.type async for event in stream] == ["image_edit.completed"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"size": "100x100"}, "size"),
        ({"size": "huge"}, "size"),
        ({"n": 99}, "n"),
        ({"quality": "xhigh"}, "quality"),
        ({"output_format": "webp"}, "output_format"),
        ({"background": "transparent"}, "background"),
        ({"style": "vivid"}, "style"),
        ({"extra_body": {"cfg_scale": 7}}, "cfg_scale"),
        ({"extra_body": {"seed": -1}}, "seed"),
        ({"model": "image"}, "model"),
        ({"prompt": ""}, "prompt"),
    ],
)
async def test_what_cannot_be_made_is_refused_by_name(
    client: AsyncOpenAI, changes: dict[str, object], param: str
) -> None:
    request = {"prompt": "a heron", "model": "sdxl", **changes}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.images.generate(**request)  # type: ignore[call-overload]
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


async def test_a_mask_and_an_image_that_are_none_are_refused(client: AsyncOpenAI, picture: bytes) -> None:
    for files, param in (({"image": b"nonsense"}, "image"), ({"image": picture, "mask": picture}, "mask")):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.edit(prompt="a heron", model="sdxl", **files)  # type: ignore[call-overload]
        assert caught.value.param == param


async def test_a_wrong_key_is_told(system: System) -> None:
    async with AsyncOpenAI(base_url=f"{system.url}/openai/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.models.list()
    assert caught.value.code == "invalid_identity"


async def test_models_are_listed_and_found_by_name(client: AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert "sdxl" in names
    assert not any(name.endswith("*") for name in names)
    assert (await client.models.retrieve("sdxl")).object == "model"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nothing")


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.CUT, Fault.CUT_AT_ONCE])
async def test_a_request_that_is_repeated_makes_one_job(system: System, picture: bytes, fault: Fault) -> None:
    before = await jobs_of(system)
    async with unreliable(system.url, {1: fault}) as proxy, strict(system, proxy.url, retries=2) as client:
        answer = await client.images.edit(image=picture, prompt=f"a heron {fault}", model="sdxl", size="128x128")
        assert [seen.headers["x-stainless-retry-count"] for seen in proxy.requests] == ["0", "1"]
    assert answer.data is not None
    assert await jobs_of(system) == before + 1


async def test_a_client_that_gives_up_waiting_and_comes_again_makes_one_job(system: System) -> None:
    before = await jobs_of(system)
    async with unreliable(system.url, {1: Fault.SILENCE}) as proxy, strict(system, proxy.url, retries=2) as client:
        patient = client.with_options(timeout=2)
        await patient.images.generate(prompt="a patient heron", model="sdxl", size="128x128")
    assert await jobs_of(system) == before + 1


async def test_a_request_that_is_slower_than_its_retry_makes_no_second_job(
    system: System, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, slow = await jobs_of(system), [True]
    retried = asyncio.Event()
    ended: asyncio.Queue[None] = asyncio.Queue()
    real, submit = References.from_bytes, Call.submit

    async def from_bytes(*arguments: Any, **named: Any) -> str:
        if slow:
            slow.clear()
            await retried.wait()
        return await real(*arguments, **named)

    async def submitted(*arguments: Any) -> Any:
        try:
            return await submit(*arguments)
        finally:
            ended.put_nowait(None)

    monkeypatch.setattr(References, "from_bytes", from_bytes)
    monkeypatch.setattr(Call, "submit", submitted)
    async with unreliable(system.url, {1: Fault.CUT_AT_ONCE}) as proxy, strict(system, proxy.url, retries=2) as client:
        await client.images.edit(image=picture, prompt="a slow heron", model="sdxl", size="128x128")
        assert await jobs_of(system) == before + 1
        await ended.get()
        retried.set()
        async with asyncio.timeout(10):
            await ended.get()
    assert await jobs_of(system) == before + 1


async def test_two_deliberate_equal_requests_are_two_jobs(system: System, client: AsyncOpenAI) -> None:
    before = await jobs_of(system)
    for _ in range(2):
        await client.images.generate(prompt="an equal heron", model="sdxl", size="128x128")
    assert await jobs_of(system) == before + 2


async def test_an_idempotency_key_is_honoured(system: System, client: AsyncOpenAI) -> None:
    before = await jobs_of(system)
    headers = {"idempotency-key": "only-once"}
    for _ in range(2):
        await client.images.generate(prompt="one heron", model="sdxl", size="128x128", extra_headers=headers)
    assert await jobs_of(system) == before + 1
    with pytest.raises(openai.ConflictError) as caught:
        await client.images.generate(prompt="two herons", model="sdxl", size="128x128", extra_headers=headers)
    assert caught.value.response.headers["x-should-retry"] == "false"

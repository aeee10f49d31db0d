"""OpenAI's own client, unmodified, makes videos; its answers are parsed strictly."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.dialects.openai.test_images import jobs_of, strict
from tests.support.system import System
from tests.support.unreliable import Fault, unreliable

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    # The hosted service was withdrawn; its client says so at every call.
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
]


@pytest_asyncio.fixture(loop_scope="session")
async def client(system: System) -> AsyncIterator[AsyncOpenAI]:
    async with strict(system) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def made(system: System) -> Any:
    """One completed video of another size than the client knows."""
    async with AsyncOpenAI(base_url=f"{system.url}/openai/v1", api_key=system.key(), max_retries=0) as client:
        body: dict[str, Any] = {"seed": 3, "steps": 2}
        size: Any = "256x144"
        seconds: Any = "1"
        return await client.videos.create_and_poll(
            prompt="a heron", model="wan", size=size, seconds=seconds, extra_body=body
        )


async def test_a_video_is_made_and_polled_to_its_end(made: Any) -> None:
    assert (made.object, made.status, made.progress, made.error) == ("video", "completed", 100, None)
    assert (made.size, made.seconds, made.prompt) == ("256x144", "1", "a heron")
    assert made.completed_at >= made.created_at
    assert made.expires_at > made.completed_at


async def test_its_bytes_and_its_still_are_fetched(client: AsyncOpenAI, made: Any) -> None:
    content = await client.videos.download_content(made.id)
    assert content.response.headers["content-type"] == "video/mp4"
    assert content.content[4:8] == b"ftyp"
    still = await client.videos.download_content(made.id, variant="thumbnail")
    assert still.content[8:12] == b"WEBP"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.videos.download_content(made.id, variant="spritesheet")
    assert caught.value.param == "variant"


async def test_a_video_is_parsed_strictly_from_the_first_answer(client: AsyncOpenAI, picture: bytes) -> None:
    video = await client.videos.create(
        prompt="a heron",
        model="wan",
        size="1280x720",
        seconds="4",
        input_reference=("a.png", picture),
    )
    assert (video.status in ("queued", "in_progress"), video.seconds, video.size) == (True, "4", "1280x720")
    assert (await client.videos.retrieve(video.id)).id == video.id
    deleted = await client.videos.delete(video.id)
    assert (deleted.id, deleted.deleted) == (video.id, True)
    with pytest.raises(openai.NotFoundError):
        await client.videos.retrieve(video.id)


async def test_a_first_frame_may_be_named(client: AsyncOpenAI, picture: bytes) -> None:
    uri = "data:image/png;base64," + base64.b64encode(picture).decode()
    video = await client.videos.create(
        prompt="a heron",
        model="wan",
        size="1280x720",
        seconds="4",
        # As an argument it is taken for a file; in the form this is `input_reference[image_url]`.
        extra_body={"input_reference": {"image_url": uri}},
    )
    await client.videos.delete(video.id)
    with pytest.raises(openai.BadRequestError) as caught:
        body = {"input_reference": {"file_id": "file-1"}}
        await client.videos.create(prompt="a heron", model="wan", extra_body=body)
    assert caught.value.param == "input_reference.file_id"


async def test_a_video_is_remixed(client: AsyncOpenAI, made: Any) -> None:
    loose = AsyncOpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0)
    async with loose:
        video = await loose.videos.remix(made.id, prompt="a crane")
    assert (video.remixed_from_video_id, video.prompt) == (made.id, "a crane")
    assert (video.size, video.seconds, video.model) == (made.size, made.seconds, made.model)


async def test_videos_are_listed_page_by_page(system: System, made: Any) -> None:
    key = system.key()
    async with httpx.AsyncClient(base_url=system.url, headers={"x-api-key": key}, trust_env=False) as http:
        jobs = (await http.get("/v1/jobs?page_size=200&format=video")).json()["jobs"]
    newest_first = [job["job_id"] for job in jobs]
    async with AsyncOpenAI(base_url=f"{system.url}/openai/v1", api_key=key, max_retries=0) as client:
        assert [video.id async for video in client.videos.list(limit=2)] == newest_first
        assert [video.id async for video in client.videos.list(limit=2, order="asc")] == newest_first[::-1]
        page = await client.videos.list(limit=1, after=newest_first[0])
    assert [video.id for video in page.data] == newest_first[1:2]


async def test_a_cancelled_video_has_failed(system: System, client: AsyncOpenAI) -> None:
    video = await client.videos.create(prompt="a heron", model="wan", size="1280x720", seconds="8")
    async with httpx.AsyncClient(base_url=system.url, headers={"x-api-key": system.key()}, trust_env=False) as http:
        assert (await http.post(f"/v1/jobs/{video.id}/cancel")).status_code == 200
    found = await client.videos.poll(video.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.code == "canceled"
    with pytest.raises(openai.ConflictError):
        await client.videos.download_content(video.id)


async def test_a_poll_is_told_when_to_come_again(system: System, client: AsyncOpenAI) -> None:
    video = await client.videos.create(prompt="a heron", model="wan", size="1280x720", seconds="8")
    answer = await client.videos.with_raw_response.retrieve(video.id, extra_headers={"x-stainless-poll-helper": "true"})
    assert int(answer.headers["openai-poll-after-ms"]) > 0
    await client.videos.delete(video.id)


async def test_what_is_not_made_here_is_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.videos.edit(prompt="a crane", video=b"video")
    with pytest.raises(openai.BadRequestError):
        await client.videos.extend(prompt="a crane", seconds="4", video=b"video")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.videos.create(prompt="a heron", model="wan", seconds="12")
    assert caught.value.param == "seconds"


async def test_one_500_makes_one_video(system: System, picture: bytes) -> None:
    before = await jobs_of(system)
    async with unreliable(system.url, {1: Fault.ERROR, 2: Fault.ERROR}) as proxy:
        async with strict(system, proxy.url, retries=2) as client:
            video = await client.videos.create(
                prompt="one heron", model="wan", size="1280x720", seconds="4", input_reference=("a.png", picture)
            )
    assert len(proxy.requests) == 3
    assert await jobs_of(system) == before + 1
    async with strict(system) as client:
        await client.videos.delete(video.id)

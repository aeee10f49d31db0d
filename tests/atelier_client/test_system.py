"""The client against the real thing: every service in this process, a real worker as a child."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypedDict

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from atelier_client import AsyncAtelier, InvalidRequest, JobFailed, NotFound, ReferenceImage, Refused
from tests.support.system import System, running_system


class Draft(TypedDict):
    quality: str
    steps: int


DRAFT: Draft = {"quality": "draft", "steps": 2}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(system: System) -> AsyncIterator[AsyncAtelier]:
    async with system.client() as client:
        yield client


def picture(color: str = "teal") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), color).save(buffer, "PNG")
    return buffer.getvalue()


async def test_from_a_prompt_to_a_file(client: AsyncAtelier, tmp_path: Path) -> None:
    made = await client.generate("a heron", model="sdxl", format="image", quantity=3, seed=100, timeout=60, **DRAFT)
    assert (made.job.state, made.job.requested, made.job.delivered) == ("succeeded", 3, 3)
    assert [asset.provenance.seed for asset in made.assets] == [100, 101, 102]
    assert [asset.asset_id for asset in made.assets] == [output.asset_id for output in made.job.outputs]
    path = await client.download(made.assets[1], tmp_path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made.assets[1].media.sha256
    thumb = next(rendition for rendition in made.assets[1].renditions if rendition.kind == "thumb_256")
    small = await client.download(thumb.url, tmp_path / "small.webp")
    with Image.open(small) as opened:
        assert max(opened.size) <= 256


async def test_watching_tells_everything_and_goes_on_after_any_cursor(client: AsyncAtelier) -> None:
    submitted = await client.submit("a heron", model="sdxl", format="image", **DRAFT)
    events = [event async for event in client.watch(submitted.job_id, timeout=60)]
    assert events[0].kind == "snapshot"
    assert {event.kind for event in events} >= {"snapshot", "state", "progress", "preview"}
    versions = [event.job.version for event in events if event.job is not None]
    assert versions == sorted(set(versions))
    assert events[-1].job is not None
    assert events[-1].job.state == "succeeded"
    cursors = [event.cursor for event in events if event.cursor]
    for index, cursor in enumerate(cursors):
        again = [event.cursor async for event in client.watch(submitted.job_id, cursor) if event.cursor]
        assert again == cursors[index + 1 :]


async def test_a_conversation_goes_on(tmp_path: Path) -> None:
    grown: list[str] = []
    said = [{"role": "user", "content": "a heron in the reeds"}]
    # Slowly: text that nobody watched while it was written is not told again.
    async with running_system(tmp_path, sketch__step_delay="60ms") as slower, slower.client() as client:
        reply = await client.chat(said, max_tokens=5, seed=7, on_text=grown.append, timeout=60)
    assert (reply.text, reply.finish_reason) == ("I would draw “a heron", "length")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (5, 5)
    assert grown[-1] == reply.text


async def test_an_enhancement_streams(tmp_path: Path) -> None:
    grown: list[str] = []
    async with running_system(tmp_path, sketch__step_delay="60ms") as slower, slower.client() as client:
        enhancement = await client.enhance("a red fox in snow", on_text=grown.append, timeout=60)
    assert "fox" in enhancement.text
    assert len(grown) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(grown))
    assert grown[-1] == enhancement.text


async def test_a_repeated_submit_is_one_job(client: AsyncAtelier) -> None:
    key = "the very same"
    jobs = [await client.submit("x", model="sdxl", format="image", idempotency_key=key, **DRAFT) for _ in range(2)]
    assert jobs[0].job_id == jobs[1].job_id
    with pytest.raises(Refused) as caught:
        await client.submit("y", model="sdxl", format="image", idempotency_key=key)
    assert caught.value.reason == "idempotency_key_reused"


async def test_save_and_open_and_delete(client: AsyncAtelier, tmp_path: Path) -> None:
    made = await client.generate("a heron", model="sdxl", format="image", timeout=60, **DRAFT)
    (saved,) = await client.save(made.assets[0].asset_id)
    (again,) = await client.save(made.assets[0].asset_id)
    assert saved.item is not None
    assert again.item is not None
    assert saved.item.item_id == again.item.item_id
    await client.discard(made.assets[0].asset_id)
    with pytest.raises(NotFound):
        await client.get_asset(made.assets[0].asset_id)
    item = await client.get_item(saved.item.item_id)
    assert item.provenance.prompt == "a heron"
    path = await client.download(item, tmp_path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made.assets[0].media.sha256
    assert item.item_id in [listed.item_id for listed in await client.items(format="image")]
    await client.delete_item(item.item_id)
    with pytest.raises(NotFound):
        await client.get_item(item.item_id)


async def test_an_upload_becomes_a_reference(client: AsyncAtelier) -> None:
    asset = await client.upload(picture(), "teal.png")
    assert (asset.source, asset.filename, asset.media.width, asset.media.height) == ("upload", "teal.png", 48, 32)
    references = [ReferenceImage(asset.asset_id, "style", 0.9)]
    made = await client.generate(
        "a heron", model="sdxl", format="image", reference_images=references, timeout=60, **DRAFT
    )
    assert [reference.asset_id for reference in made.job.reference_images] == [asset.asset_id]
    with pytest.raises(InvalidRequest) as caught:
        await client.upload(b"not a picture", "x.png")
    assert caught.value.reason == "unsupported_media"


async def test_a_cancelled_job_delivers_nothing(client: AsyncAtelier) -> None:
    submitted = await client.submit("a heron", model="sdxl", format="image", quantity=8)
    assert (await client.cancel(submitted.job_id)).state == "cancelled"
    waited = await client.wait(submitted.job_id, 20)
    assert (waited.state, waited.delivered) == ("cancelled", 0)
    with pytest.raises(JobFailed):
        raise JobFailed(waited)


async def test_somebody_elses_things_are_not_found(system: System, client: AsyncAtelier) -> None:
    made = await client.generate("a heron", model="sdxl", format="image", timeout=60, **DRAFT)
    key = (await client.create_key("eve")).secret
    async with system.client(key) as eve:
        assert (await eve.identity()).owner_id == "eve"
        for forbidden in (
            eve.get_job(made.job.job_id),
            eve.get_asset(made.assets[0].asset_id),
            eve.wait(made.job.job_id),
            eve.cancel(made.job.job_id),
        ):
            with pytest.raises(NotFound):
                await forbidden
        assert not len(await eve.assets(made.job.job_id))


async def test_a_worker_killed_in_the_middle_loses_nothing(system: System, client: AsyncAtelier) -> None:
    submitted = await client.submit("a heron", model="sdxl", format="image", quantity=6)
    async with contextlib.aclosing(client.watch(submitted.job_id, timeout=60)) as events:
        async for event in events:
            if event.progress is not None and event.progress.asset_index >= 1:
                break
    await system.kill_worker()
    job = await client.wait(submitted.job_id, 60)
    assets = await client.assets(submitted.job_id)
    assert (job.state, job.delivered) == ("succeeded", 6)
    assert sorted(asset.asset_index for asset in assets) == list(range(6))
    async with asyncio.timeout(20):
        await system.worker_connected()


async def test_signed_addresses_need_no_key_and_take_no_forgery(client: AsyncAtelier) -> None:
    made = await client.generate("a heron", model="sdxl", format="image", timeout=60, **DRAFT)
    url = made.assets[0].url
    async with httpx.AsyncClient() as anybody:
        assert (await anybody.get(url)).content[:4] == b"\x89PNG"
        assert (await anybody.get(url.replace("expires=", "expires=9"))).status_code in (403, 404)

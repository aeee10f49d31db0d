"""The whole system on a real Wan: from a request to a saved video, by a worker from a worker.toml."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import pytest
import pytest_asyncio
from PIL import Image

from atelier_client import AsyncAtelier, Generated, JobFailed, ReferenceImage
from service_kit.renditions import OF_VIDEOS
from tests.engines import tiny_wan
from tests.support.config_worker import config_worker
from tests.support.system import System, running_system

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("worker")
    engines = f"""
[[engine]]
name = "videos"
engine = "atelier_worker.engines.diffusers_engine:DiffusersEngine"
device = "cpu"
memory_limit = "4GiB"
  [[engine.models]]
  name = "wan"
  source = "{tiny_wan.save("text_and_first_frame", folder / "weights")}"
  flow_shift = 5
"""
    async with (
        running_system(tmp_path_factory.mktemp("system"), worker=False) as running,
        config_worker(running, folder, engines, "wan"),
    ):
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(system: System) -> AsyncIterator[AsyncAtelier]:
    async with system.client() as client:
        yield client


async def made(client: AsyncAtelier, **more: Any) -> Generated:
    asked = {"width": 136, "height": 72, "duration_seconds": 1, "steps": 2, "seed": 100, "timeout": 120} | more
    return await client.generate("a kite over dunes", model="wan", format="video", **asked)


async def test_from_a_request_to_a_saved_video(client: AsyncAtelier, tmp_path: Path) -> None:
    result = await made(client, quantity=2)
    assert (result.job.state, result.job.delivered) == ("succeeded", 2)
    (saved,) = await client.save(result.assets[1].asset_id)
    assert saved.item is not None
    assert (await client.get_item(saved.item.item_id)).asset_id == result.assets[1].asset_id
    assert {rendition.kind for rendition in result.assets[1].renditions} >= set(OF_VIDEOS)
    with av.open(str(await client.download(result.assets[1], tmp_path / "kite.mp4"))) as container:
        said = json.loads(container.metadata["atelier"])
        frames = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate or 0) == 16.0
    # A second at the rate of the model, of which 4k + 1 are filmed.
    assert frames == [(72, 136, 3)] * 16
    assert (said["engine"], said["seed"]) == ("diffusers", 101)
    assert said["settings"].items() >= {"frames": 16, "fps": 16, "steps": 2}.items()


async def test_a_video_of_another_frame_rate_plays_as_long(client: AsyncAtelier, tmp_path: Path) -> None:
    result = await made(client, duration_seconds=1.5, frame_rate=6)
    assert (result.assets[0].media.duration_ms, result.assets[0].provenance.settings.frames) == (1500, 9)


async def test_the_same_seed_gives_the_same_bytes(client: AsyncAtelier) -> None:
    first, again, other = [(await made(client, seed=seed)).assets[0].media.sha256 for seed in (5, 5, 6)]
    assert first == again != other


async def test_a_video_begins_with_a_picture(client: AsyncAtelier) -> None:
    file = io.BytesIO()
    Image.new("RGB", (96, 96), (200, 20, 20)).save(file, "PNG")
    picture = await client.upload(file.getvalue(), "red.png")
    first = ReferenceImage(asset_id=picture.asset_id, kind="first_frame")
    begun = await made(client, reference_images=[first])
    assert begun.assets[0].media.sha256 != (await made(client)).assets[0].media.sha256
    last = ReferenceImage(asset_id=picture.asset_id, kind="last_frame")
    with pytest.raises(JobFailed, match="cannot be told the last one: leave out last_frame"):
        await made(client, reference_images=[first, last])

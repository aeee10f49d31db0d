"""The whole system on a real SDXL: from a request to a saved item, by a worker from a worker.toml."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image

from atelier_client import AsyncAtelier, JobFailed, Lora, ReferenceImage
from tests.engines import tiny_sdxl
from tests.support.config_worker import config_worker
from tests.support.system import System, running_system

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tiny_sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("worker")
    tiny_sdxl.save_lora(folder / "loras")
    engines = f"""
[[engine]]
name = "pictures"
engine = "atelier_worker.engines.diffusers_engine:DiffusersEngine"
worker_types = ["sdxl"]
slots = 1
device = "cpu"
dtype = "float32"
memory_limit = "4GiB"
  [[engine.models]]
  name = "sdxl"
  source = "{tiny_sdxl_folder}"
  scheduler = "euler"
  loras = {{ ink = "loras/ink.safetensors" }}
"""
    async with (
        running_system(tmp_path_factory.mktemp("system"), worker=False) as running,
        config_worker(running, folder, engines, "sdxl"),
    ):
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(system: System) -> AsyncIterator[AsyncAtelier]:
    async with system.client() as client:
        yield client


async def test_from_a_request_to_a_saved_item(client: AsyncAtelier, tmp_path: Path) -> None:
    made = await client.generate(
        "a kite over dunes, " * 10, model="sdxl", format="image", quantity=2, seed=100, width=256, height=192, steps=3,
        guidance=4.0, scheduler="dpmpp_2m", loras=[Lora("ink", 0.5)], timeout=120,
    )  # fmt: skip
    assert (made.job.state, made.job.delivered) == ("succeeded", 2)
    (saved,) = await client.save(made.assets[1].asset_id)
    assert saved.item is not None
    item = await client.get_item(saved.item.item_id)
    assert item.asset_id == made.assets[1].asset_id
    with Image.open(await client.download(made.assets[1], tmp_path / "kite.png")) as picture:
        assert picture.size == (256, 192)
        said = json.loads(str(picture.info["atelier"]))
    assert (said["engine"], said["seed"]) == ("diffusers", 101)
    assert said["settings"].items() >= {"guidance": 4.0, "scheduler": "dpmpp_2m", "steps": 3}.items()
    assert said["settings"]["loras"] == [{"name": "ink", "weight": 0.5}]


async def test_the_same_seed_gives_the_same_bytes(client: AsyncAtelier) -> None:
    sums = []
    for seed in (5, 5, 6):
        made = await client.generate(
            "a kite", model="sdxl", format="image", quantity=2, seed=seed, width=256, height=256, steps=2, timeout=60
        )
        sums.append([asset.media.sha256 for asset in made.assets])
    assert sums[0] == sums[1]
    assert not set(sums[0]) & {sums[2][1]}


async def test_a_picture_becomes_another(client: AsyncAtelier) -> None:
    first = await client.generate("a kite", model="sdxl", format="image", width=256, height=256, steps=2, timeout=60)
    init = ReferenceImage(asset_id=first.assets[0].asset_id, kind="init", strength=0.5)
    made = await client.generate(
        "a kite", model="sdxl", format="image", width=256, height=256, steps=4, reference_images=[init], timeout=60
    )
    assert made.job.state == "succeeded"


async def test_what_the_model_does_not_do_is_said_to_the_client(client: AsyncAtelier) -> None:
    with pytest.raises(JobFailed, match="There is no LoRA 'chalk' for this model on this worker; there are: ink"):
        await client.generate("a kite", model="sdxl", format="image", loras=[Lora("chalk")], timeout=60)

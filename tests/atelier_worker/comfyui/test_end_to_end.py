"""From POST /v1/generate-content through a configured worker to a ComfyUI, and back to a saved item."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from PIL import Image

from faults.ports import free_port
from faults.proxy import Link
from tests.atelier_worker.comfyui.conftest import template_of
from tests.atelier_worker.comfyui.stand_in import StandIn
from tests.support.config_worker import config_worker
from tests.support.system import System, running_system

_ENGINES = """
[[engine]]
name = "comfy"
engine = "atelier_worker.engines.comfyui_engine:ComfyEngine"
worker_types = ["sdxl"]
url = "{url}"
  [[engine.models]]
  name = "sdxl"
  template = "{template}"
"""
_LIMIT_S = 20.0


async def test_a_picture_is_made_once_though_every_connection_is_cut(comfyui: StandIn, tmp_path: Path) -> None:
    template = template_of("sdxl", tmp_path)
    link = Link("comfyui", free_port(), [("127.0.0.1", int(comfyui.url.rpartition(":")[2]))])
    await link.start()
    try:
        async with (
            running_system(tmp_path / "data", worker=False) as system,
            config_worker(system, tmp_path, _ENGINES.format(url=f"http://{link.target}", template=template), "sdxl"),
        ):
            await _cut_in_the_middle(system, comfyui, link, tmp_path)
    finally:
        await link.close()


async def _cut_in_the_middle(system: System, comfyui: StandIn, link: Link, folder: Path) -> None:
    comfyui.hold_at = 1
    async with asyncio.timeout(_LIMIT_S), system.client() as client:
        submitted = await client.submit(
            "a kite over dunes", model="sdxl", format="image", width=64, height=64, steps=3, seed=7, guidance=4.0
        )
        # The stand-in runs in another thread, and tells nobody here.
        while not comfyui.ran:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert link.cut() >= 1
        comfyui.hold_at = None
        job = await client.wait(submitted.job_id)
        assert (job.state, job.delivered, list(job.warnings)) == ("succeeded", 1, [])
        [asset] = await client.assets(submitted.job_id)
        [saved] = await client.save(asset.asset_id)
        assert saved.item is not None
        item = await client.get_item(saved.item.item_id)
        with Image.open(await client.download(asset, folder / "kite.png")) as picture:
            assert picture.getpixel((0, 0)) == (7, 3, 1)
            assert json.loads(picture.info["atelier"])["settings"]["workflow"] == "sdxl"
    assert item.asset_id == asset.asset_id
    assert len(comfyui.ran) == len(comfyui.taken) == 1
    assert comfyui.taken[0]["prompt"]["3"]["inputs"]["cfg"] == 4.0

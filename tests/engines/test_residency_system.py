"""Memory as a client sees it: a model that is loaded, and a worker that runs out of memory and goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from atelier_client import AsyncAtelier
from tests.support.config_worker import config_worker
from tests.support.system import running_system

ENGINE = """
[[engine]]
name = "pictures"
engine = "tests.engines.short_engine:ShortEngine"
worker_types = ["sdxl"]
slots = 1
device = "cpu"
  [[engine.models]]
  name = "sdxl"
  source = "{source}"
  fallbacks = []
"""


async def _told(client: AsyncAtelier, prompt: str) -> tuple[list[str], list[str]]:
    """Make a picture; return the phases and the states that a watcher was told."""
    submitted = await client.submit(prompt, model="sdxl", format="image", width=64, height=64, steps=4)
    phases: list[str] = []
    states: list[str] = []
    async for event in client.watch(submitted.job_id, timeout=90):
        if event.progress is not None:
            phases.append(event.progress.phase)
        if event.job is not None:
            states.append(event.job.state)
    return phases, states


async def _loaded(client: AsyncAtelier) -> list[tuple[str, str]]:
    """Wait until the worker says what it keeps in memory: name and device of each."""
    async with asyncio.timeout(20):
        while True:
            (worker,) = await client.workers()
            if worker.loaded:
                return [(model.name, model.device) for model in worker.loaded]
            await asyncio.sleep(0.05)  # the API tells it only to those who ask


@pytest.mark.asyncio
async def test_a_load_is_seen_and_a_shortage_is_tried_again_on_the_same_model(
    tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    async with (
        running_system(tmp_path / "data", worker=False) as system,
        config_worker(system, tmp_path, ENGINE.format(source=tiny_sdxl_folder), "sdxl"),
        system.client() as client,
    ):
        phases, states = await _told(client, "a kite")
        assert "loading sdxl" in phases
        assert states[-1] == "succeeded"
        assert await _loaded(client) == [("sdxl", "cpu")]
        phases, states = await _told(client, "shortage of kites")
        assert "queued" in states[states.index("running") :]
        assert states[-1] == "succeeded"
        # The engine's process lives: it still has the model.
        assert "denoising" in phases
        assert "loading sdxl" not in phases

"""The whole system with a real language model: conversations, richer prompts, and a picture that is saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from atelier_client import AsyncAtelier
from tests.engines.tiny_qwen import write_tiny_qwen
from tests.support.config_worker import config_worker
from tests.support.system import System, running_system

pytestmark = pytest.mark.asyncio(loop_scope="module")
SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What do you see?"}]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    model = write_tiny_qwen(tmp_path_factory.mktemp("model"))
    engines = f"""
[[engine]]
name = "words"
engine = "atelier_worker.engines.transformers_engine:TransformersEngine"
worker_types = ["chat"]
device = "cpu"
  [[engine.models]]
  name = "chat"
  source = "{model}"

[[engine]]
name = "pictures"
engine = "sketch"
worker_types = ["sdxl"]
step_delay = "0"
"""
    async with (
        running_system(tmp_path_factory.mktemp("system"), worker=False) as running,
        config_worker(running, tmp_path_factory.mktemp("worker"), engines, "chat", "sdxl"),
    ):
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(system: System) -> AsyncIterator[AsyncAtelier]:
    async with system.client() as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {system.key()}"}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False, timeout=20) as made:
        yield made


async def test_a_conversation_streams_over_events(client: AsyncAtelier) -> None:
    pieces: list[str] = []
    reply = await client.chat(SAID, seed=3, max_tokens=30, timeout=60, on_text=pieces.append)
    again = await client.chat(SAID, seed=3, max_tokens=30, timeout=60)

    assert len(pieces) > 1
    # Each is the text so far.
    assert all(later.startswith(earlier) for earlier, later in pairwise(pieces))
    assert pieces[-1] == reply.text == again.text
    assert reply.finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 30


async def test_a_richer_prompt_streams_and_its_template_is_logged(client: AsyncAtelier) -> None:
    job_id = (await client.submit("a red kite", model="sdxl", enhancement_only=True)).job_id
    events = [event async for event in client.watch(job_id, timeout=60)]
    job = await client.get_job(job_id)

    deltas = [event.text_delta for event in events if event.text_delta]
    assert len(deltas) > 1
    assert max(delta.offset + len(delta.text) for delta in deltas) == len(job.enhanced_prompt)
    assert [event.log.line for event in events if event.log] == ["enhance/sdxl v1, written by chat"]
    assert job.enhanced_by is not None
    assert str(job.enhanced_by) == "transformers, chat, enhance/sdxl v1"
    # Random words come to no end by themselves: what is kept of them is said.
    assert any("enhance/sdxl v1" in warning.message for warning in job.warnings)


async def test_from_a_request_to_a_saved_item(http: httpx.AsyncClient, client: AsyncAtelier) -> None:
    body = {"prompt": "a red kite", "model": "sdxl", "format": "image", "enhance_prompt": True, "seed": 4}
    answer = await http.post("/v1/generate-content", json={**body, "width": 256, "height": 256, "steps": 2})
    assert answer.status_code < 300, answer.text
    job = await client.wait(answer.json()["job_id"], timeout=60)
    assert job.state == "succeeded", job.failure
    assert len(job.enhanced_prompt) > 20

    (asset,) = await client.assets(job.job_id)
    (saved,) = await client.save(asset.asset_id)
    assert saved.item is not None
    item = await client.get_item(saved.item.item_id)
    assert item.asset_id == asset.asset_id


async def test_a_cancel_ends_a_conversation_between_tokens(http: httpx.AsyncClient, client: AsyncAtelier) -> None:
    asked: dict[str, Any] = {"messages": SAID, "max_tokens": 3000}
    answer = await http.post("/v1/generate-content", json={"model": "chat", "chat": asked, "seed": 1})
    job_id = answer.json()["job_id"]
    written = 0
    async with asyncio.timeout(60):
        async for event in client.watch(job_id):
            if event.kind == "text_delta" and not written:
                written += 1
                await client.cancel(job_id)
    ended = await client.get_job(job_id)

    assert (written, ended.state) == (1, "cancelled")
    # The model is free for the next one.
    assert (await client.chat(SAID, max_tokens=5, timeout=60)).finish_reason == "length"


async def test_a_conversation_that_is_too_long_is_refused_to_the_client(client: AsyncAtelier) -> None:
    with pytest.raises(Exception, match=r"5\d{3} tokens; this model reads and writes at most 4096"):
        await client.chat([{"role": "user", "content": "long " * 1000}], timeout=60)


async def test_openai_clients_stream_from_it(system: System) -> None:
    async with openai.AsyncOpenAI(base_url=f"{system.url}/openai/v1", api_key=system.key(), max_retries=0) as made:
        messages: Any = SAID
        stream = await made.chat.completions.create(
            model="chat", messages=messages, seed=3, max_tokens=30, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        whole = await made.chat.completions.create(model="chat", messages=messages, seed=3, max_tokens=30)

    deltas = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert len(deltas) > 1
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage

"""From POST /v1/generate-content through a configured worker to an upstream, and back to a saved item."""

from __future__ import annotations

from pathlib import Path

import httpx

from faults.ports import free_port
from tests.atelier_worker.openai.stand_in import DONE, StandIn, encoded, event, picture, says, streams
from tests.support.config_worker import config_worker
from tests.support.system import running_system

_ENGINES = """
[[engine]]
name = "talk"
engine = "atelier_worker.engines.openai_engine:OpenAIEngine"
worker_types = ["chat"]
url = "{url}"
  [[engine.models]]
  name = "chat"
  source = "Qwen/Qwen3-8B"

[[engine]]
name = "pictures"
engine = "atelier_worker.engines.openai_engine:OpenAIEngine"
worker_types = ["sdxl"]
url = "{url}"
  [[engine.models]]
  name = "sdxl"
  source = "gpt-image-1"
  serves = ["images"]
  cost_per_image = 0.04
"""


async def _metrics(address: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://{address}/metrics")).text


async def test_a_conversation_and_a_picture_come_from_an_upstream(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(
        streams(event("A "), event("kite.", "stop"), event(usage=(11, 3)), DONE),
        encoded(picture(1024, 1024)),
        says(400, {"error": {"message": "no kites, please"}}),
    )
    status = f"127.0.0.1:{free_port()}"
    async with (
        running_system(tmp_path / "data", worker=False) as system,
        config_worker(system, tmp_path, _ENGINES.format(url=upstream.url), "chat", "sdxl", status=status),
        system.client() as client,
    ):
        reply = await client.chat([{"role": "user", "content": "What do you see?"}])
        assert (reply.text, reply.finish_reason) == ("A kite.", "stop")
        assert reply.usage is not None
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (11, 3)
        made = await client.generate("a kite over dunes", model="sdxl", format="image", seed=7)
        assert [warning.message for warning in made.job.warnings] == [
            "The upstream takes no seed: the same seed does not give the same picture again."
        ]
        [saved] = await client.save(made.assets[0].asset_id)
        assert saved.item is not None
        assert saved.item.item_id
        submitted = await client.submit("another", model="sdxl", format="image")
        failed = await client.wait(submitted.job_id)
        assert failed.failure is not None
        assert "The upstream refused the request (400: no kites, please)." in failed.failure.message
        metrics = await _metrics(status)
        assert 'atelier_worker_engine_counted_total{engine="talk",what="input_tokens"} 11' in metrics
        assert 'atelier_worker_engine_counted_total{engine="pictures",what="cost"} 0.04' in metrics
    assert [one.path for one in upstream.asked] == [
        "/v1/chat/completions",
        "/v1/images/generations",
        "/v1/images/generations",
    ]

"""A limit that is reached is 429 in every shape, with its name, its value and when to come back."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.dialects.conftest import EVENT_STREAMS
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")

SUBMITS: dict[str, dict[str, Any]] = {
    "/v1/generate-content": {"prompt": "x", "model": "sdxl", "format": "image"},
    "/openai/v1/images/generations": {"prompt": "x", "model": "sdxl"},
    "/fal/queue/fal-ai/sdxl": {"prompt": "x"},
    "/fal/run/fal-ai/sdxl": {"prompt": "x"},
    "/replicate/v1/models/atelier/sdxl/predictions": {"input": {"prompt": "x"}},
}


def _error(path: str, body: Any) -> tuple[str, str]:
    """Return the name of the limit and the message, from where each dialect has them."""
    if path.startswith("/openai"):
        return body["error"]["param"], body["error"]["message"]
    if path.startswith("/fal"):
        # In the words only.
        return body["detail"].split()[2], body["detail"]
    if path.startswith("/replicate"):
        return body["invalid_fields"][0]["field"], body["detail"]
    return body["error"]["fields"][0]["field"], body["error"]["message"]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["owner", "key"])
async def crowded(request: pytest.FixtureRequest, system: System) -> tuple[dict[str, str], str]:
    """Give the headers of an owner, or of a key, who has as many jobs waiting as may, and whose limit that is."""
    of_key = request.param == "key"
    async with httpx.AsyncClient(base_url=system.url, headers={"x-api-key": system.key()}, trust_env=False) as http:
        row = {"stage": "generate", "worker_type": "nobody", "formats": ["image"]}
        (await http.put("/v1/models/unserved", json=row)).raise_for_status()
        if not of_key:
            (await http.put("/v1/owners/crowd/limits", json={"queued_jobs": 1})).raise_for_status()
        asked = {"owner_id": "throng", "queued_jobs": 1} if of_key else {"owner_id": "crowd"}
        made = (await http.post("/v1/keys", json=asked)).json()
        key = {"authorization": f"Bearer {made['secret']}"}
        body = {"prompt": "x", "model": "unserved", "format": "image"}
        (await http.post("/v1/generate-content", json=body, headers={"x-api-key": made["secret"]})).raise_for_status()
        (await http.delete("/v1/models/unserved")).raise_for_status()
    return key, f"the key {made['key']['key_id']}" if of_key else "this owner"


@pytest.mark.parametrize("path", SUBMITS)
async def test_a_job_too_many_is_refused(system: System, crowded: tuple[dict[str, str], str], path: str) -> None:
    headers, whose = crowded
    async with httpx.AsyncClient(base_url=system.url, trust_env=False, timeout=20) as http:
        response = await http.post(path, json=SUBMITS[path], headers=headers)
    name, message = _error(path, response.json())
    assert (response.status_code, name, response.headers["retry-after"]) == (429, "queued_jobs", "5")
    assert f"queued_jobs of {whose} is 1" in message


@pytest.mark.parametrize("path", SUBMITS)
async def test_a_request_too_many_is_refused(system: System, path: str) -> None:
    async with httpx.AsyncClient(base_url=system.url, trust_env=False, timeout=20) as http:
        body = {"owner_id": "hasty", "requests_per_minute": 1}
        made = await http.post("/v1/keys", json=body, headers={"x-api-key": system.key()})
        key = {"authorization": f"Bearer {made.json()['secret']}"}
        assert (await http.get("/v1/jobs", headers=key)).status_code == 200
        response = await http.post(path, json=SUBMITS[path], headers=key)
    name, message = _error(path, response.json())
    assert (response.status_code, name) == (429, "requests_per_minute")
    assert "requests_per_minute of this key is 1" in message
    assert 50 <= int(response.headers["retry-after"]) <= 60


async def test_a_stream_too_many_is_refused(system: System) -> None:
    """Where something is only watched: what streams a job of its own is bounded by the limits of jobs."""
    async with httpx.AsyncClient(base_url=system.url, trust_env=False, timeout=20) as http, AsyncExitStack() as stack:
        made = await http.post("/v1/keys", json={"owner_id": "curious"}, headers={"x-api-key": system.key()})
        key = {"authorization": f"Bearer {made.json()['secret']}"}
        body = {"prompt": "x", "model": "sdxl", "format": "image"}
        job_id = (await http.post("/v1/generate-content", json=body, headers=key)).json()["job_id"]
        for _ in range(EVENT_STREAMS):
            await stack.enter_async_context(http.stream("GET", "/v1/events", headers=key))
        for path in (
            f"/v1/jobs/{job_id}/events",
            f"/fal/queue/fal-ai/sdxl/requests/{job_id}/status/stream",
            f"/replicate/v1/predictions/{job_id}/stream",
        ):
            response = await http.get(path, headers=key)
            name, message = _error(path, response.json())
            assert (response.status_code, name) == (429, "event_streams_per_owner"), path
            assert f"event_streams_per_owner of this owner is {EVENT_STREAMS}" in message
            assert response.headers["retry-after"] == "10"

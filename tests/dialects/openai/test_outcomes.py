"""Cancelling, disconnecting, waiting too long and failing: what a client that waits for images is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from atelier.router.v1 import job_pb2
from atelier.type.v1 import error_pb2
from gateway.dialects import call as calls
from gateway.dialects.failures import problem_of
from gateway.status import http_status
from tests.dialects.openai.test_images import strict
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")
# A second at least, and several with many pixels: so long that it still runs when it is left.
SLOW: dict[str, Any] = {"steps": 200}


@pytest_asyncio.fixture(loop_scope="session")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-api-key": system.key()}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False) as made:
        yield made


async def job_with(http: httpx.AsyncClient, prompt: str) -> dict[str, Any]:
    """Return the one job with a prompt, once it is there."""
    async with asyncio.timeout(10):
        while True:
            jobs = (await http.get("/v1/jobs?page_size=20")).json()["jobs"]
            found: list[dict[str, Any]] = [job for job in jobs if job["prompt"] == prompt]
            if found:
                assert len(found) == 1
                return found[0]
            await asyncio.sleep(0.02)


async def test_a_cancelled_job_is_told_to_whoever_waits(system: System, http: httpx.AsyncClient) -> None:
    async with strict(system, retries=2) as client:
        request = client.images.generate(prompt="to be cancelled", model="sdxl", extra_body=SLOW)
        waiting = asyncio.ensure_future(request)
        job = await job_with(http, "to be cancelled")
        assert (await http.post(f"/v1/jobs/{job['job_id']}/cancel")).status_code == 200
        with pytest.raises(openai.ConflictError) as caught:
            await waiting
    assert caught.value.code == "cancelled"
    await job_with(http, "to be cancelled")


async def test_a_cancelled_job_ends_a_stream_with_an_error(system: System, http: httpx.AsyncClient) -> None:
    async with strict(system) as client:
        stream = await client.images.generate(
            prompt="to be cancelled in a stream", model="sdxl", stream=True, extra_body=SLOW
        )
        job = await job_with(http, "to be cancelled in a stream")
        assert (await http.post(f"/v1/jobs/{job['job_id']}/cancel")).status_code == 200
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "cancelled"


async def test_a_client_that_goes_has_not_cancelled_its_job(system: System, http: httpx.AsyncClient) -> None:
    async with strict(system) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.7).images.generate(
                prompt="left alone", model="sdxl", size="128x128", extra_body=SLOW
            )
    job = await job_with(http, "left alone")
    async with http.stream("GET", f"/v1/jobs/{job['job_id']}/events") as events:
        await events.aread()
    assert (await job_with(http, "left alone"))["state"] == "succeeded"


async def test_who_waits_too_long_waits_on_with_the_next_retry(
    system: System, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "WAIT_LIMIT", timedelta(seconds=0.3))
    async with strict(system) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.images.generate(prompt="impatient", model="sdxl", size="128x128", extra_body=SLOW)
        assert caught.value.status_code == 504
        job = await job_with(http, "impatient")
        assert job["job_id"] in str(caught.value)
        monkeypatch.undo()
        answer = await client.images.generate(
            prompt="impatient",
            model="sdxl",
            size="128x128",
            extra_body=SLOW,
            extra_headers={"x-stainless-retry-count": "1"},
        )
    assert answer.data is not None
    await job_with(http, "impatient")


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (error_pb2.ERROR_REASON_ENGINE_FAILED, 500),
        (error_pb2.ERROR_REASON_JOB_DEADLINE_EXCEEDED, 500),
        (error_pb2.ERROR_REASON_REFERENCE_UNREADABLE, 400),
        (4711, 500),
    ],
)
async def test_why_a_job_failed_is_said(reason: Any, status: int) -> None:
    job = job_pb2.Job(state=job_pb2.JOB_STATE_FAILED)
    job.failure.reason, job.failure.message = reason, "It broke."
    problem = problem_of(job)
    assert (problem.error.message, problem.status or http_status(problem.error)) == ("It broke.", status)

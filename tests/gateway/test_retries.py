"""A submission that is sent again because its answer never came is one job; two deliberate equal ones are two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
import pytest_asyncio

from tests.support.system import System, running_system
from tests.support.unreliable import Fault, unreliable

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARKS: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "ours": ({}, {"atelier-retry-count": "1"}),
    "an SDK's": ({"x-stainless-retry-count": "0"}, {"x-stainless-retry-count": "2"}),
    "a key": ({"idempotency-key": "mine"}, {"idempotency-key": "mine"}),
}
"""What the first request carries, and what its retry does."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with running_system(tmp_path_factory.mktemp("retries"), worker=False) as running:
        yield running


async def submit(http: httpx.AsyncClient, prompt: str, headers: Mapping[str, str]) -> httpx.Response:
    body = {"prompt": prompt, "model": "sdxl", "format": "image", "seed": 1}
    return await http.post("/v1/generate-content", json=body, headers=headers)


async def jobs(system: System, prompt: str) -> list[str]:
    """Return the states of the jobs with a prompt."""
    async with httpx.AsyncClient(base_url=system.url, headers={"x-api-key": system.key()}, trust_env=False) as http:
        found = (await http.get("/v1/jobs?page_size=200")).json()["jobs"]
    return [job["state"] for job in found if job["prompt"] == prompt]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("fault", Fault)
async def test_a_retry_makes_no_second_job(system: System, fault: Fault, mark: str) -> None:
    prompt = f"{fault} {mark}"
    first, again = MARKS[mark]
    if "idempotency-key" in first:
        first = again = {"idempotency-key": prompt.replace(" ", "-")}
    async with unreliable(system.url, {1: fault}) as proxy:
        headers = {"x-api-key": system.key()}
        async with httpx.AsyncClient(base_url=proxy.url, headers=headers, timeout=10, trust_env=False) as http:
            if fault is Fault.ERROR:
                assert (await submit(http, prompt, first)).status_code == 500
            elif fault is Fault.SILENCE:
                http.timeout = httpx.Timeout(0.3)
                with pytest.raises(httpx.TimeoutException):
                    await submit(http, prompt, first)
                http.timeout = httpx.Timeout(10)
            else:
                with pytest.raises(httpx.TransportError):
                    await submit(http, prompt, first)
            answers = [await submit(http, prompt, again) for _ in range(2)]
        assert [seen.fault for seen in proxy.requests] == [fault, None, None]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert await jobs(system, prompt) == ["queued"], "and a client that left has cancelled nothing"


async def test_two_deliberate_equal_submissions_are_two_jobs(system: System) -> None:
    async with httpx.AsyncClient(base_url=system.url, headers={"x-api-key": system.key()}, trust_env=False) as http:
        answers = await asyncio.gather(*(submit(http, "twice", {"x-stainless-retry-count": "0"}) for _ in range(2)))
        assert len({answer.json()["job_id"] for answer in answers}) == 2
        for nonsense in ("-1", "1.5", "x", "9" * 5000):
            assert (await submit(http, "twice", {"atelier-retry-count": nonsense})).status_code == 200
    assert await jobs(system, "twice") == ["queued"] * 6

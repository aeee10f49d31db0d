"""fal's own Python client, unmodified: over TLS, which it insists on, with a certificate that the test makes."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.gateway.receivers import Certificates, Receiver, make_certificates
from tests.support.system import System
from tests.support.unreliable import Fault, Unreliable, unreliable

pytestmark = pytest.mark.asyncio(loop_scope="session")

SMALL = {"prompt": "a heron", "image_size": {"width": 128, "height": 128}, "num_inference_steps": 2}
LONG = {"prompt": "a heron", "image_size": {"width": 1024, "height": 1024}, "num_inference_steps": 200, "num_images": 8}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), "localhost")


@asynccontextmanager
async def connected(
    system: System, certificates: Certificates, faults: Mapping[int, Fault], key: str = ""
) -> AsyncIterator[tuple[Any, Unreliable]]:
    """Give a client as its users make one: by the environment, which it reads when it is imported."""
    async with unreliable(system.url, faults, tls=certificates.server()) as proxy:
        host = proxy.url.removeprefix("https://")
        with pytest.MonkeyPatch.context() as environ:
            environ.setenv("FAL_KEY", key or system.key())
            environ.setenv("FAL_RUN_HOST", f"{host}/fal/run")
            environ.setenv("FAL_QUEUE_RUN_HOST", f"{host}/fal/queue")
            environ.setenv("SSL_CERT_FILE", str(certificates.authority))
            for name in [name for name in sys.modules if name.partition(".")[0] == "fal_client"]:
                environ.delitem(sys.modules, name)
            client = importlib.import_module("fal_client").AsyncClient()
            try:
                yield client, proxy
            finally:
                await (await client._client).aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def fal(system: System, certificates: Certificates) -> AsyncIterator[Any]:
    async with connected(system, certificates, {}) as (client, _):
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-api-key": system.key()}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False) as client:
        yield client


def failure(caught: pytest.ExceptionInfo[Exception]) -> Any:
    """Return what the client raised; its classes are new with every import."""
    return caught.value


async def jobs_of(http: httpx.AsyncClient, prompt: str) -> list[dict[str, Any]]:
    jobs = (await http.get("/v1/jobs?page_size=200")).json()["jobs"]
    return [job for job in jobs if job["prompt"] == prompt]


async def test_an_app_is_subscribed_to(fal: Any) -> None:
    updates: list[Any] = []
    result = await fal.subscribe(
        "fal-ai/sdxl",
        {**SMALL, "num_images": 2, "seed": 0},
        with_logs=True,
        on_queue_update=updates.append,
        priority="low",
        hint="warm",
    )
    assert [(image["width"], image["height"], image["content_type"]) for image in result["images"]] == [
        (128, 128, "image/png")
    ] * 2
    assert (result["seed"], result["prompt"], result["has_nsfw_concepts"]) == (0, "a heron", [False, False])
    assert result["timings"]["inference"] > 0
    last = updates[-1]
    assert type(last).__name__ == "Completed"
    assert last.logs[-1]["message"] == "Delivered 2 of 2."
    assert (last.error, last.metrics["inference_time"] > 0) == (None, True)


async def test_a_result_is_fetched_without_a_key(fal: Any) -> None:
    result = await fal.run("fal-ai/sdxl", SMALL)
    async with httpx.AsyncClient(trust_env=False) as anybody:
        response = await anybody.get(result["images"][0]["url"])
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")


async def test_a_video_is_made(fal: Any) -> None:
    arguments = {"prompt": "a heron", "duration": "1", "image_size": {"width": 128, "height": 128}}
    result = await fal.run("fal-ai/wan/text-to-video", {**arguments, "num_inference_steps": 1})
    assert result["video"]["content_type"] == "video/mp4"


async def test_a_picture_starts_from_another(fal: Any, picture: bytes) -> None:
    import fal_client

    arguments = {**SMALL, "image_url": fal_client.encode(picture, "image/png"), "strength": 0.8}
    made = await fal.run("fal-ai/sdxl/image-to-image", arguments)
    # What came out goes in again, by its address.
    again = await fal.run("fal-ai/sdxl/image-to-image", {**SMALL, "image_url": made["images"][0]["url"]})
    assert len(again["images"]) == 1


async def test_a_file_is_uploaded_where_the_constant_of_the_client_points(
    system: System, certificates: Certificates, picture: bytes, tmp_path: Path
) -> None:
    async with connected(system, certificates, {}) as (fal, proxy):
        module = sys.modules["fal_client.client"]
        # Neither a variable of the environment nor an argument names them: a release that reads one is news.
        assert (module.REST_URL, module.CDN_URL) == ("https://rest.fal.ai", "https://v3.fal.media")
        module.REST_URL = f"{proxy.url}/fal"  # type: ignore[attr-defined]
        url = await fal.upload(picture, "image/png", repository="fal")
        assert url.startswith(f"{system.url}/fal/files/")
        made = await fal.run("fal-ai/sdxl/image-to-image", {**SMALL, "image_url": url})
        assert len(made["images"]) == 1
        path = tmp_path / "teal.png"
        path.write_bytes(picture)
        assert (await fal.upload_file(path, repository="fal")).startswith(f"{system.url}/fal/files/")


async def test_a_request_is_followed_and_cancelled(fal: Any, http: httpx.AsyncClient) -> None:
    handle = await fal.submit("fal-ai/sdxl", LONG)
    assert handle.status_url.endswith(f"/fal/queue/fal-ai/sdxl/requests/{handle.request_id}/status")
    assert type(await handle.status()).__name__ in ("Queued", "InProgress")
    early = await http.get(f"/fal/queue/fal-ai/sdxl/requests/{handle.request_id}")
    assert (early.status_code, early.json()) == (400, {"detail": "Request is still in progress"})
    await fal.cancel("fal-ai/sdxl", handle.request_id)
    status = await fal.status("fal-ai/sdxl", handle.request_id, with_logs=True)
    assert (type(status).__name__, status.error_type) == ("Completed", "client_cancelled")
    with pytest.raises(Exception, match="cancelled") as caught:
        await handle.get()
    assert (failure(caught).status_code, failure(caught).error_type) == (499, "client_cancelled")
    assert (await http.get(f"/v1/jobs/{handle.request_id}")).json()["job"]["state"] == "cancelled"


async def test_a_webhook_tells_the_result(fal: Any) -> None:
    receiver = Receiver([200])
    async with await asyncio.start_server(receiver.talk, "127.0.0.1", 0) as server:
        receiver.port = server.sockets[0].getsockname()[1]
        handle = await fal.submit("fal-ai/sdxl", SMALL, webhook_url=receiver.url)
        told = json.loads((await receiver.wait_for(1))[0].body)
    assert (told["request_id"], told["status"]) == (handle.request_id, "OK")
    assert told["payload"]["prompt"] == "a heron"


async def test_it_can_be_too_late_to_cancel(fal: Any) -> None:
    handle = await fal.submit("fal-ai/sdxl", SMALL)
    await handle.get()
    with pytest.raises(Exception, match="too late") as caught:
        await handle.cancel()
    assert failure(caught).status_code == 400


async def test_a_run_is_streamed(fal: Any) -> None:
    pieces = [piece async for piece in fal.stream("fal-ai/sdxl", {**SMALL, "num_inference_steps": 40})]
    assert all(piece["images"][0]["url"].startswith("data:image/") for piece in pieces[:-1])
    assert pieces[-1]["images"][0]["url"].startswith("http")


async def test_what_the_client_gives_up_is_cancelled(fal: Any, http: httpx.AsyncClient) -> None:
    with pytest.raises(Exception, match="timed out") as caught:
        await fal.subscribe("fal-ai/sdxl", {**LONG, "prompt": "given up"}, client_timeout=1.05)
    job = (await http.get(f"/v1/jobs/{failure(caught).request_id}")).json()["job"]
    assert job["state"] == "cancelled"


async def test_who_disconnects_from_a_run_has_not_cancelled_it(fal: Any, http: httpx.AsyncClient) -> None:
    arguments = {**SMALL, "prompt": "fal, left alone", "num_inference_steps": 60}
    waiting = asyncio.create_task(fal.run("fal-ai/sdxl", arguments))
    # The API tells it only to those who ask.
    while not await jobs_of(http, "fal, left alone"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    job_id = (await jobs_of(http, "fal, left alone"))[0]["job_id"]
    async with http.stream("GET", f"/v1/jobs/{job_id}/events") as events:
        assert '"state":"succeeded"' in (await events.aread()).decode()


@pytest_asyncio.fixture(loop_scope="session")
async def idle_app(http: httpx.AsyncClient) -> AsyncIterator[str]:
    """Give an app that no worker takes."""
    row = {"stage": "generate", "worker_type": "nobody", "formats": ["image"], "aliases": ["fal-ai/idle"]}
    assert (await http.put("/v1/models/idle", json=row)).status_code == 200
    yield "fal-ai/idle"
    await http.delete("/v1/models/idle")


async def test_what_does_not_start_in_time_is_cancelled(fal: Any, idle_app: str, http: httpx.AsyncClient) -> None:
    with pytest.raises(Exception, match="did not start") as caught:
        await fal.run(idle_app, SMALL, start_timeout=1.01)
    assert (failure(caught).status_code, failure(caught).error_type) == (504, "request_timeout")
    first, second = [
        await fal.submit(idle_app, {**SMALL, "prompt": "fal, waits"}, start_timeout=1.01) for _ in range(2)
    ]
    assert [(await handle.status()).position for handle in (first, second)] == [0, 1]
    with pytest.raises(Exception, match="did not start"):
        await second.get()
    await first.cancel()
    assert {job["state"] for job in await jobs_of(http, "fal, waits")} == {"cancelled"}


async def test_errors_are_told_as_fal_tells_them(fal: Any, system: System, certificates: Certificates) -> None:
    with pytest.raises(Exception, match="must be") as caught:
        await fal.run("fal-ai/sdxl", {**SMALL, "num_images": 9})
    assert failure(caught).status_code == 422
    assert failure(caught).message[0]["loc"] == ["body", "num_images"]
    with pytest.raises(Exception, match="no app fal-ai/sdlx") as caught:
        await fal.submit("fal-ai/sdlx", SMALL)
    assert failure(caught).status_code == 404
    async with connected(system, certificates, {}, key="atl_wrong") as (stranger, _):
        with pytest.raises(Exception, match="key") as caught:
            await stranger.run("fal-ai/sdxl", SMALL)
    assert failure(caught).status_code == 401


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.CUT_AT_ONCE])
async def test_a_repeat_with_a_key_is_the_same_job(
    system: System, certificates: Certificates, http: httpx.AsyncClient, fault: Fault
) -> None:
    prompt = f"fal, once {fault}"
    async with connected(system, certificates, {1: fault}) as (client, proxy):
        handle = await client.submit("fal-ai/sdxl", {**SMALL, "prompt": prompt}, headers={"Idempotency-Key": prompt})
        await handle.get()
    assert len([seen for seen in proxy.requests if seen.method == "POST"]) == 2
    assert [job["job_id"] for job in await jobs_of(http, prompt)] == [handle.request_id]


@pytest.mark.parametrize("way", ["submit", "run"])
async def test_a_connection_that_breaks_makes_no_second_job(
    system: System, certificates: Certificates, http: httpx.AsyncClient, way: str
) -> None:
    arguments = {**SMALL, "prompt": f"fal, cut {way}"}
    async with connected(system, certificates, {1: Fault.CUT_AT_ONCE, 2: Fault.CUT_AT_ONCE}) as (client, proxy):
        made = await getattr(client, way)("fal-ai/sdxl", arguments)
        if way == "submit":
            await made.get()
    assert len([seen for seen in proxy.requests if seen.method == "POST"]) == 3
    assert len(await jobs_of(http, f"fal, cut {way}")) == 1


async def test_equal_requests_are_two_jobs(fal: Any, http: httpx.AsyncClient) -> None:
    handles = [await fal.submit("fal-ai/sdxl", {**SMALL, "prompt": "fal, twice"}) for _ in range(2)]
    assert {handle.request_id for handle in handles} == {job["job_id"] for job in await jobs_of(http, "fal, twice")}
    assert len(handles) == 2


async def test_the_page_for_users_of_the_client_is_true(
    system: System, certificates: Certificates, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "clients" / "fal.md").read_text("utf-8")
    snippet = page.partition("```python\n")[2].partition("```")[0]
    script = tmp_path / "snippet.py"
    script.write_text(snippet, "utf-8")
    async with unreliable(system.url, {}, tls=certificates.server()) as proxy:
        host = proxy.url.removeprefix("https://")
        environ = {
            "FAL_KEY": system.key(),
            "FAL_RUN_HOST": f"{host}/fal/run",
            "FAL_QUEUE_RUN_HOST": f"{host}/fal/queue",
            "SSL_CERT_FILE": str(certificates.authority),
        }
        ran = await asyncio.create_subprocess_exec(
            sys.executable, str(script), env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, errors = await ran.communicate()
    assert (ran.returncode, out.decode()[:4]) == (0, "http"), errors.decode()

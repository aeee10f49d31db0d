"""Replicate's own Python client of the 1.x series, unmodified."""

from __future__ import annotations

import asyncio
import io
import sys
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.system import System
from tests.support.unreliable import Fault, unreliable

with warnings.catch_warnings():
    # It uses the parts of pydantic that were there in its first version.
    warnings.simplefilter("ignore")
    from replicate.client import Client
    from replicate.exceptions import ModelError, ReplicateError

pytestmark = pytest.mark.asyncio(loop_scope="session")

SMALL: dict[str, Any] = {"prompt": "a heron", "width": 128, "height": 128, "num_inference_steps": 2}
LONG: dict[str, Any] = {**SMALL, "width": 1024, "height": 1024, "num_inference_steps": 200, "num_outputs": 8}
SDXL = "stability-ai/sdxl"


def client_of(url: str, key: str) -> Any:
    client: Any = Client(api_token=key, base_url=f"{url}/replicate")
    client.poll_interval = 0.02
    return client


@pytest_asyncio.fixture(loop_scope="session")
async def client(system: System) -> AsyncIterator[Any]:
    made = client_of(system.url, system.key())
    yield made
    await made._async_client.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Token {system.key()}"}
    async with httpx.AsyncClient(base_url=f"{system.url}/replicate/v1", headers=headers, trust_env=False) as made:
        yield made


async def test_a_model_is_run_and_its_output_needs_no_key(client: Any) -> None:
    urls = await client.async_run(SDXL, input={**SMALL, "num_outputs": 2})
    assert len(urls) == 2
    async with httpx.AsyncClient(trust_env=False) as anybody:
        assert (await anybody.get(urls[0])).headers["content-type"] == "image/png"


async def test_a_version_is_run(client: Any) -> None:
    model = await client.models.async_get(SDXL)
    assert (model.owner, model.name, model.latest_version.cog_version) == ("stability-ai", "sdxl", "0.16.0")
    versions = await model.versions.async_list()
    assert [version.id for version in versions] == [model.latest_version.id]
    version = await model.versions.async_get(model.latest_version.id)
    assert version.openapi_schema["components"]["schemas"]["Output"]["type"] == "array"
    urls = await client.async_run(f"{SDXL}:{version.id}", input=SMALL)
    prediction = await client.predictions.async_create(version=version.id, input=SMALL)
    assert (len(urls), prediction.version) == (1, version.id)
    await prediction.async_wait()


async def test_a_prediction_says_how_far_it_is(client: Any) -> None:
    given = {**SMALL, "seed": 0, "num_inference_steps": 80, "guidance_scale": 7.5}
    prediction = await client.predictions.async_create(model=SDXL, input=given)
    assert (prediction.status in ("starting", "processing"), prediction.input) == (True, given)
    seen = []
    while prediction.status not in ("succeeded", "failed", "canceled"):
        await prediction.async_reload()
        seen.append(prediction.progress)
    assert (prediction.status, len(prediction.output), prediction.error) == ("succeeded", 1, None)
    assert (prediction.progress.current, prediction.progress.total) == (80, 80)
    assert any(0 < progress.current < 80 for progress in seen if progress)
    assert prediction.metrics["predict_time"] > 0


async def test_a_video_is_one_address(client: Any) -> None:
    given = {"prompt": "a heron", "duration": 1, "width": 128, "height": 128, "num_inference_steps": 1}
    assert (await client.async_run("wan-video/wan", input=given)).startswith("http")


async def test_a_wait_that_is_over_says_starting_and_run_goes_on_to_poll(client: Any) -> None:
    given = {**SMALL, "num_inference_steps": 40, "num_outputs": 4}
    prediction = await client.models.predictions.async_create(model=SDXL, input=given, wait=1)
    assert (prediction.status, prediction.output) == ("starting", None)
    await prediction.async_wait()
    assert len(prediction.output) == 4


async def test_a_prediction_is_cancelled(client: Any) -> None:
    prediction = await client.predictions.async_create(model=SDXL, input=LONG)
    await prediction.async_cancel()
    assert (prediction.status, prediction.output, prediction.error) == ("canceled", None, None)
    again = await client.predictions.async_cancel(prediction.id)
    assert again.status == "canceled"


async def test_a_prediction_is_streamed(client: Any) -> None:
    events = [event async for event in await client.async_stream(SDXL, input=SMALL)]
    assert [event.event.value for event in events if event.event.value != "logs"] == ["output", "done"]
    assert len({event.id for event in events}) == len(events)
    assert str(next(event for event in events if event.event.value == "output")).startswith("http")


async def test_a_stream_of_what_was_cancelled_ends(client: Any) -> None:
    prediction = await client.predictions.async_create(model=SDXL, input=LONG)
    await prediction.async_cancel()
    events = [event async for event in prediction.async_stream()]
    assert [(event.event.value, event.data) for event in events] == [("done", '{"reason":"canceled"}')]


async def test_predictions_are_listed_page_by_page(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await client.async_run(SDXL, input=SMALL)
    assert made
    monkeypatch.setattr("gateway.dialects.replicate.predictions._PAGE", 2)
    first = await client.predictions.async_list()
    assert (len(first), first.results[0].status) == (2, "succeeded")
    second = await client.predictions.async_list(first.next)
    assert not {one.id for one in first} & {one.id for one in second}


async def test_files_are_brought_used_and_deleted(client: Any, picture: bytes) -> None:
    content = io.BytesIO(picture)
    content.name = "teal.png"
    file = await client.files.async_create(content)
    assert (file.name, file.content_type, file.size) == ("teal.png", "image/png", len(picture))
    assert (await client.files.async_get(file.id)).checksums == file.checksums
    assert file.id in [one.id for one in await client.files.async_list()]
    given = {**SMALL, "image": file.urls["get"], "prompt_strength": 0.5}
    urls = await client.async_run(SDXL, input=given)
    # What came out goes in again, by its address.
    assert len(await client.async_run(SDXL, input={**SMALL, "image": urls[0]})) == 1
    assert await client.files.async_delete(file.id)
    with pytest.raises(ReplicateError, match="404"):
        await client.files.async_get(file.id)
    with pytest.raises(ReplicateError, match="metadata"):
        await client.files.async_create(content, metadata={"a": 1})


async def test_files_in_the_input_become_files(client: Any, picture: bytes) -> None:
    for strategy in ("base64", "url"):
        prediction = await client.predictions.async_create(
            SDXL, {**SMALL, "image": io.BytesIO(picture)}, file_encoding_strategy=strategy
        )
        assert "/replicate/v1/files/" in prediction.input["image"]
        await prediction.async_wait()
        assert prediction.status == "succeeded"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nope": 1}, "input.nope is not a known field"),
        ({"num_outputs": 9}, "input.num_outputs must be 1..8, got 9"),
        ({"guidance_scale": 31}, "input.guidance_scale must be 0..30, got 31"),
        ({"lora_weights": "https://example.com/x"}, "input.lora_weights must be the name of a LoRA"),
        ({"lora_scale": 0.5}, "input.lora_weights is required with lora_scale"),
        ({"duration": 2}, "input.duration is of videos"),
        ({"image": "http://127.0.0.1:1/x"}, "input.image"),
        ({"output_format": "mp4"}, "input.output_format"),
        ({"aspect_ratio": "1:1"}, "say it twice"),
        ({"mask": "https://example.com/m.png"}, "input.image is required with mask"),
    ],
)
async def test_what_cannot_be_had_is_refused(client: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ReplicateError) as caught:
        await client.predictions.async_create(model=SDXL, input={**SMALL, **given})
    assert (caught.value.status, caught.value.title) == (422, "Unprocessable Entity")
    assert message in (caught.value.detail or "")


async def test_models_and_versions_that_are_not_there(client: Any, system: System) -> None:
    with pytest.raises(ReplicateError) as caught:
        await client.async_run("a/nothing", input=SMALL)
    assert caught.value.status == 404
    with pytest.raises(ReplicateError) as caught:
        await client.predictions.async_create(version="0" * 64, input=SMALL)
    assert caught.value.status == 422
    stranger = client_of(system.url, "atl_wrong")
    with pytest.raises(ReplicateError) as caught:
        await stranger.predictions.async_list()
    assert caught.value.status == 401
    await stranger._async_client.aclose()


async def test_what_fails_says_why(client: Any, system: System) -> None:
    async with httpx.AsyncClient(base_url=system.url, headers={"x-api-key": system.key()}, trust_env=False) as admin:
        row = {"stage": "generate", "worker_type": "nobody", "formats": ["image"], "deadline_seconds": 1}
        assert (await admin.put("/v1/models/hopeless", json=row)).status_code == 200
        with pytest.raises(ModelError) as caught:
            await client.async_run("a/hopeless", input=SMALL)
        await admin.delete("/v1/models/hopeless")
    assert caught.value.prediction.status == "failed"
    assert caught.value.prediction.error


async def test_who_disconnects_while_waiting_has_not_cancelled(client: Any, http: httpx.AsyncClient) -> None:
    # So many steps that it still runs when it is left, however late that is.
    given = {**SMALL, "prompt": "left waiting", "num_inference_steps": 200}
    waiting = asyncio.create_task(client.async_run(SDXL, input=given))

    async def found() -> list[dict[str, Any]]:
        results = (await http.get("/predictions")).json()["results"]
        return [one for one in results if one["input"]["prompt"] == "left waiting"]

    # The API tells it only to those who ask.
    while not await found():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    prediction = await client.predictions.async_get((await found())[0]["id"])
    await prediction.async_wait()
    assert prediction.status == "succeeded"
    # Who comes again because the connection broke gets what was being made.
    await client.async_run(SDXL, input=given)
    assert len(await found()) == 1


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.CUT, Fault.CUT_AT_ONCE])
async def test_a_failed_answer_makes_no_second_job(system: System, http: httpx.AsyncClient, fault: Fault) -> None:
    given = {**SMALL, "prompt": f"once {fault}"}
    async with unreliable(system.url, {1: fault}) as proxy:
        client = client_of(proxy.url, system.key())
        with pytest.raises((ReplicateError, httpx.TransportError)):
            await client.predictions.async_create(model=SDXL, input=given)
        await client._async_client.aclose()
    assert len(proxy.requests) == 1
    listed = (await http.get("/predictions")).json()["results"]
    assert len([one for one in listed if one["input"] == given]) <= 1


async def test_a_marked_repeat_is_the_same_job(http: httpx.AsyncClient, picture: bytes) -> None:
    body = {"input": {**SMALL, "prompt": "again"}}
    path = f"/models/{SDXL}/predictions"
    first = (await http.post(path, json=body)).json()["id"]
    assert (await http.post(path, json=body, headers={"x-stainless-retry-count": "1"})).json()["id"] == first
    assert (await http.post(path, json=body, headers={"x-stainless-retry-count": "0"})).json()["id"] != first
    named = {"idempotency-key": "again-1"}
    third = [(await http.post(path, json=body, headers=named)).json()["id"] for _ in range(2)]
    assert third[0] == third[1]
    other = await http.post(path, json={"input": {**SMALL, "prompt": "another"}}, headers=named)
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")


async def test_the_page_for_users_of_the_client_is_true(system: System, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "clients" / "replicate.md").read_text("utf-8")
    snippet = page.partition("```python\n")[2].partition("```")[0]
    script = tmp_path / "snippet.py"
    script.write_text(snippet, "utf-8")
    environ = {"REPLICATE_API_TOKEN": system.key(), "REPLICATE_BASE_URL": f"{system.url}/replicate"}
    ran = await asyncio.create_subprocess_exec(
        sys.executable, str(script), env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await ran.communicate()
    assert (ran.returncode, out.decode()[:4]) == (0, "http"), errors.decode()

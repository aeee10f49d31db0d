"""Every example of the OpenAPI document, sent to the real system: each is answered with a 2xx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio

from gateway import examples
from gateway.examples import EXAMPLES, Example
from gateway.openapi import document
from tests.support.system import System, running_system

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in document()["paths"].items()
    for method, operation in methods.items()
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with running_system(tmp_path_factory.mktemp("examples"), worker=False) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-api-key": system.key()}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, timeout=20, trust_env=False) as client:
        yield client


async def upload(http: httpx.AsyncClient) -> dict[str, str]:
    answer = await http.post("/v1/uploads", content=examples.PICTURE)
    asset: dict[str, str] = answer.raise_for_status().json()["asset"]
    return asset


async def saved(http: httpx.AsyncClient) -> str:
    asset_ids = [(await upload(http))["asset_id"]]
    answer = await http.post("/v1/save-to-library", json={"asset_ids": asset_ids})
    return str(answer.raise_for_status().json()["results"][0]["item"]["item_id"])


async def described(http: httpx.AsyncClient) -> str:
    """Save a file of which it is known how it was made. Returns the id of the item."""
    body = EXAMPLES["DescribeImport"].body
    (await http.post("/v1/imports", json=body)).raise_for_status()
    upload = await http.post("/v1/uploads", params={"import_key": body["import_key"]}, content=examples.PICTURE)
    asset_ids = [upload.raise_for_status().json()["asset"]["asset_id"]]
    answer = await http.post("/v1/save-to-library", json={"asset_ids": asset_ids})
    return str(answer.raise_for_status().json()["results"][0]["item"]["item_id"])


async def real(http: httpx.AsyncClient, name: str, example: Example) -> dict[str, str]:
    """Return what stands on this system for each sample of the example."""
    text = json.dumps([dict(example.path), dict(example.query), example.body], default=repr)
    found = {}
    if examples.JOB_ID in text:
        job = await http.post("/v1/generate-content", json=EXAMPLES["GenerateContent"].body)
        found[examples.JOB_ID] = job.raise_for_status().json()["job_id"]
    if examples.DELIVERY_ID in text:
        told = {**EXAMPLES["GenerateContent"].body, "webhook": {"url": "https://hooks.invalid/"}}
        job_id = (await http.post("/v1/generate-content", json=told)).raise_for_status().json()["job_id"]
        (await http.post(f"/v1/jobs/{job_id}/cancel")).raise_for_status()
        log = await http.get("/v1/webhooks/deliveries", params={"job_id": job_id})
        found[examples.DELIVERY_ID] = log.raise_for_status().json()["deliveries"][0]["delivery_id"]
    if examples.ASSET_ID in text:
        found[examples.ASSET_ID] = (await upload(http))["asset_id"]
    if examples.UPLOAD_ID in text:
        begun = await http.post("/v1/uploads/resumable", json=EXAMPLES["BeginUpload"].body)
        found[examples.UPLOAD_ID] = upload_id = begun.raise_for_status().json()["upload"]["upload_id"]
        if name == "CompleteUpload":
            (await http.patch(f"/v1/uploads/{upload_id}?offset=0", content=examples.PICTURE)).raise_for_status()
    if examples.ITEM_ID in text:
        found[examples.ITEM_ID] = await (described(http) if name == "GetRecipe" else saved(http))
    if examples.COLLECTION_ID in text:
        made = await http.post("/v1/collections", json={"name": "Lighthouses"})
        found[examples.COLLECTION_ID] = made.raise_for_status().json()["collection"]["collection_id"]
    if examples.KEY in text or examples.KEY_ID in text:
        made = (await http.post("/v1/keys", json=EXAMPLES["CreateKey"].body)).raise_for_status().json()
        found |= {examples.KEY: made["secret"], examples.KEY_ID: made["key"]["key_id"]}
    if examples.CODE in text:
        found[examples.CODE] = (await http.post("/v1/sign-in-codes", json={})).raise_for_status().json()["code"]
    if name == "DeleteJob":
        (await http.post(f"/v1/jobs/{found[examples.JOB_ID]}/cancel", json={})).raise_for_status()
    if name == "DeleteModel":
        put = EXAMPLES["PutModel"]
        (await http.put(f"/v1/models/{put.path['name']}", json=put.body)).raise_for_status()
    return found


def filled(text: str, found: dict[str, str]) -> str:
    for sample, value in found.items():
        text = text.replace(sample, value)
    return text


async def send(http: httpx.AsyncClient, name: str, found: dict[str, str]) -> tuple[int, str]:
    """Send an example and return the status and the type of the answer; a stream is left after its status."""
    method, path, _ = OPERATIONS[name]
    example = EXAMPLES[name]
    for field, value in example.path.items():
        path = path.replace("{" + field + "}", quote(filled(value, found)))
    headers, body = {}, None
    if isinstance(example.body, bytes):
        body, headers = example.body, {"content-type": "application/octet-stream"}
    elif example.body is not None:
        body, headers = filled(json.dumps(example.body), found).encode(), {"content-type": "application/json"}
    query = {field: filled(str(value), found) for field, value in example.query.items()}
    async with http.stream(method, path, params=query, content=body, headers=headers) as answer:
        return answer.status_code, answer.headers.get("content-type", "").partition(";")[0]


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"GetMedia"}))
async def test_the_example_is_answered(http: httpx.AsyncClient, name: str) -> None:
    found = await real(http, name, EXAMPLES[name])
    status, content_type = await send(http, name, found)
    async with asyncio.timeout(20):
        # Until the workspace knows that the job has ended.
        while name == "DeleteJob" and status == 409:
            status, content_type = await send(http, name, found)
    assert status == 200
    assert content_type in OPERATIONS[name][2]["responses"]["200"]["content"]


async def test_media_is_answered_at_the_address_that_an_asset_has(http: httpx.AsyncClient) -> None:
    asset = await upload(http)
    url = httpx.URL(asset["url"])
    assert set(url.params) == set(EXAMPLES["GetMedia"].query)
    assert url.path.startswith(f"/media/{EXAMPLES['GetMedia'].path['bucket']}/")
    answer = await http.get(url, headers={"range": "bytes=0-3"})
    assert (answer.status_code, answer.content) == (206, examples.PICTURE[:4])
    assert (await send(http, "GetMedia", {}))[0] == 403
    assert "403" in OPERATIONS["GetMedia"][2]["responses"]

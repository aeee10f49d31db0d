"""Every field of every table goes over the wire: what is taken all at once, what is refused one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.dialects.dialect import Endpoint
from gateway.dialects.fields import Field, Treatment, Upload
from gateway.dialects.openai import OPENAI
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")
WITH_FIELDS = [endpoint for endpoint in OPENAI.endpoints if endpoint.fields]
REFUSED = [
    pytest.param(endpoint, entry, id=f"{endpoint.template} {entry.name}")
    for endpoint in WITH_FIELDS
    for entry in endpoint.fields
    if entry.treatment is Treatment.REFUSED
]
SMALL = {"size": "64x64", "stream": False, "webhook": "http://127.0.0.1:9/hook", "steps": 2}
HERE: dict[str, dict[str, Any]] = {
    "/openai/v1/images/generations": {**SMALL, "n": 2},
    "/openai/v1/images/edits": {**SMALL, "n": 1},
    "/openai/v1/videos": {**SMALL, "seconds": "1"},
}
"""Examples that would take long, or that are not there."""


@pytest_asyncio.fixture(loop_scope="session")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {system.key()}"}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False, timeout=20) as made:
        yield made


async def send(http: httpx.AsyncClient, endpoint: Endpoint, body: Mapping[str, Any]) -> httpx.Response:
    """Send JSON, or a form where there is a file."""
    files = {name: value for name, value in body.items() if isinstance(value, Upload)}
    path = endpoint.template.replace("{video_id}", "0192f0c8-0000-7000-8000-000000000000")
    if not files:
        return await http.request(endpoint.method, path, json=body)
    data: dict[str, Any] = {}
    for name, value in body.items():
        if isinstance(value, dict):
            data |= {f"{name}[{key}]": inner for key, inner in value.items()}
        elif name not in files:
            data[name] = str(value).lower() if isinstance(value, bool) else value
    parts = {name: (value.filename, value.content, value.content_type) for name, value in files.items()}
    return await http.post(path, data=data, files=parts)


def taken(endpoint: Endpoint, picture: bytes, mask: bytes) -> dict[str, Any]:
    found = {e.name: e.example for e in endpoint.fields if e.treatment is not Treatment.REFUSED}
    found |= {name: value for name, value in HERE[endpoint.template].items() if name in found}
    if "image" in found:
        found |= {"image": Upload("a.png", "image/png", picture), "mask": Upload("m.png", "image/png", mask)}
    if "input_reference" in found:
        found["input_reference"] = Upload("a.png", "image/png", picture)
    return found


@pytest.mark.parametrize("template", sorted(HERE))
async def test_every_field_that_is_taken_does_what_it_says(
    http: httpx.AsyncClient, template: str, picture: bytes, mask: bytes
) -> None:
    endpoint = next(found for found in WITH_FIELDS if found.template == template)
    body = taken(endpoint, picture, mask)
    response = await send(http, endpoint, body)
    assert response.status_code == 200, response.text
    job_id = response.headers.get("atelier-job-id") or response.json()["id"]
    job = (await http.get(f"/v1/jobs/{job_id}")).json()["job"]
    settings = job["generation_settings"]
    assert (job["prompt"], job["negative_prompt"]) == (body["prompt"], body["negative_prompt"])
    assert (settings["model"], settings["size"], settings["seed"]) == (body["model"], "64x64", body["seed"])
    assert (settings["steps"], settings["quality"]) == (body["steps"], "high")
    assert settings["quantity"] == body.get("n", 1)
    assert [stage["kind"] for stage in job["stages"]] == ["enhance", "generate"]
    kinds = [reference["kind"] for reference in job["reference_images"]]
    assert (
        kinds == {"generations": [], "edits": ["init", "mask"], "videos": ["first_frame"]}[template.rpartition("/")[2]]
    )
    notes = {name: str(body[name]) for name in body if _is_noted(endpoint, name)}
    assert notes.items() <= job["annotations"].items()
    assert job["annotations"]["dialect"] == "openai"
    if "seconds" in body:
        assert settings["frames"] / settings["frame_rate"] == pytest.approx(1, abs=0.2)
        await http.delete(f"{template}/{job_id}")


def _is_noted(endpoint: Endpoint, name: str) -> bool:
    return any(entry.name == name and entry.treatment is Treatment.NOTED for entry in endpoint.fields)


@pytest.mark.parametrize(("endpoint", "entry"), REFUSED)
async def test_every_field_that_is_refused_is_named(http: httpx.AsyncClient, endpoint: Endpoint, entry: Field) -> None:
    body = {needed.name: needed.example for needed in endpoint.fields if needed.required}
    response = await send(http, endpoint, {**body, entry.name: entry.example})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == entry.name


@pytest.mark.parametrize("endpoint", WITH_FIELDS, ids=lambda endpoint: endpoint.template)
async def test_a_field_that_nobody_knows_is_named(http: httpx.AsyncClient, endpoint: Endpoint) -> None:
    body = {needed.name: needed.example for needed in endpoint.fields if needed.required}
    response = await send(http, endpoint, {**body, "no_such_field": 1})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("no_such_field", "unknown_field")

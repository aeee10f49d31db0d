"""Every field of a prediction goes over the wire: what is taken at once, what is refused one by one."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.dialects.fields import Field, Treatment
from gateway.dialects.replicate.catalogue import version_id
from gateway.dialects.replicate.inputs import FIELDS, INPUT
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED = [entry for entry in FIELDS if entry.treatment is Treatment.REFUSED]
NOTED = {
    entry.name.removeprefix(INPUT): entry.example
    for entry in FIELDS
    if entry.treatment is Treatment.NOTED and entry.name.startswith(INPUT)
}
SDXL, WAN = "/models/stability-ai/sdxl/predictions", "/models/wan-video/wan/predictions"


@pytest_asyncio.fixture(loop_scope="session")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Token {system.key()}"}
    base = f"{system.url}/replicate/v1"
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=20) as made:
        yield made


async def job_of(http: httpx.AsyncClient, system: System, path: str, body: dict[str, Any]) -> Any:
    response = await http.post(path, json=body)
    assert response.status_code == 201, response.text
    job_id = response.json()["id"]
    headers = {"authorization": f"Bearer {system.key()}"}
    job = (await http.get(f"{system.url}/v1/jobs/{job_id}", headers=headers)).json()["job"]
    await http.post(f"/predictions/{job_id}/cancel")
    return job


async def test_every_field_of_a_picture(http: httpx.AsyncClient, system: System, picture: bytes, mask: bytes) -> None:
    uris = [f"data:image/png;base64,{base64.b64encode(content).decode()}" for content in (picture, mask)]
    given = {
        **NOTED,
        "prompt": "a heron",
        "negative_prompt": "fog",
        "prompt_upsampling": True,
        "width": 128,
        "height": 64,
        "num_outputs": 2,
        "seed": 0,
        "steps": 3,
        "output_format": "png",
        "input_image": uris[0],
        "mask": uris[1],
        "strength": 0.75,
        "refine": "no_refiner",
        "guidance": 0,
        "scheduler": "euler",
        "lora_weights": "ink",
        "extra_lora": "grain",
        "extra_lora_scale": -0.5,
    }
    job = await job_of(http, system, SDXL, {"input": given, "stream": False})
    settings = job["generation_settings"]
    assert (job["prompt"], job["negative_prompt"]) == ("a heron", "fog")
    assert (settings["size"], settings["quantity"], settings["seed"], settings["steps"]) == ("128x64", 2, 0, 3)
    assert (settings["guidance"], settings["scheduler"]) == (0, "euler")
    assert [(lora["name"], lora["weight"]) for lora in settings["loras"]] == [("ink", 1), ("grain", -0.5)]
    assert [stage["kind"] for stage in job["stages"]] == ["enhance", "generate"]
    assert [reference["kind"] for reference in job["reference_images"]] == ["init", "mask"]
    assert job["reference_images"][0]["strength"] == 0.25
    assert job["annotations"].items() >= {"dialect": "replicate", "replicate_model": "stability-ai/sdxl"}.items()
    assert job["annotations"]["stream"] == "false"
    assert json.loads(job["annotations"]["replicate_input"]).items() >= NOTED.items()


async def test_every_field_of_a_video(http: httpx.AsyncClient, system: System, picture: bytes) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    given = {"prompt": "a heron", "aspect_ratio": "9:16", "duration": 2, "start_image": uri, "num_inference_steps": 1}
    given |= {"frames_per_second": 12}
    job = await job_of(http, system, WAN, {"input": given})
    settings = job["generation_settings"]
    assert settings["aspect_ratio"] == "9:16"
    assert (settings["frames"], settings["frame_rate"]) == (24, 12)
    del given["frames_per_second"]
    again = await job_of(http, system, WAN, {"input": {**given, "fps": 8}})
    assert again["generation_settings"]["frame_rate"] == 8
    assert [reference["kind"] for reference in job["reference_images"]] == ["first_frame"]


@pytest.mark.parametrize("entry", REFUSED, ids=lambda entry: str(entry.name))
async def test_every_field_that_is_refused_is_named(http: httpx.AsyncClient, entry: Field) -> None:
    given = {"prompt": "a heron", entry.name.removeprefix(INPUT): entry.example}
    response = await http.post(SDXL, json={"input": given})
    assert response.status_code == 422, response.text
    assert response.json()["invalid_fields"][0]["field"] == entry.name


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": {"prompt": "x"}, "no_such_field": 1}, "no_such_field"),
        ({"input": "x"}, "input"),
        ({"input": {"prompt": "x", "width": 128}}, "input.height"),
        ({"input": {"prompt": "x", "width": 100, "height": 100}}, "input.width"),
        ({"input": {"prompt": "x", "steps": 2, "num_inference_steps": 2}}, "input.steps"),
        ({"input": {"prompt": "x" * 9000}}, "input.prompt"),
        ({"input": {"prompt": "x", "image": "https://x.example/", "input_image": "y"}}, "input.input_image"),
        ({"input": {"prompt": "x", "system_prompt": "x"}}, "input.system_prompt"),
        ({"input": {"prompt": "x"}, "webhook_events_filter": ["logs"], "webhook": "x"}, "webhook_events_filter[0]"),
        ({"input": {"prompt": "x"}, "webhook_events_filter": ["start"]}, "webhook_events_filter"),
        ({"input": {"prompt": "x"}, "webhook": "http://10.0.0.1/"}, "webhook.url"),
        ({"input": {"prompt": "x"}, "webhook": "https://x.example/", "webhook_completed": "y"}, "webhook_completed"),
    ],
)
async def test_what_cannot_be_had_is_named(http: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    response = await http.post(SDXL, json=body)
    assert response.status_code == 422, response.text
    assert response.json()["invalid_fields"][0]["field"] == field


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"prefer": "wait=0"}, "Prefer"),
        ({"prefer": "wait=61"}, "Prefer"),
        ({"cancel-after": "soon"}, "Cancel-After"),
        ({"cancel-after": "4s"}, "Cancel-After"),
        ({"cancel-after": "25h"}, "Cancel-After"),
    ],
)
async def test_headers_that_cannot_be_had_are_named(
    http: httpx.AsyncClient, headers: dict[str, str], field: str
) -> None:
    response = await http.post(SDXL, json={"input": {"prompt": "a heron"}}, headers=headers)
    assert (response.status_code, response.json()["invalid_fields"][0]["field"]) == (422, field)


@pytest.mark.parametrize(
    ("version", "status"),
    [
        (version_id("sdxl"), 201),
        (f"stability-ai/sdxl:{version_id('sdxl')}", 201),
        ("stability-ai/sdxl", 201),
        ("sdxl-base-1.0", 201),
        ("stability-ai/sdxl:0000", 422),
        ("a/nothing", 422),
        ("*", 422),
    ],
)
async def test_versions_have_many_names(http: httpx.AsyncClient, version: str, status: int) -> None:
    body = {"version": version, "input": {"prompt": "a heron", "width": 64, "height": 64, "num_inference_steps": 1}}
    response = await http.post("/predictions", json=body)
    assert response.status_code == status, response.text
    if status == 201:
        assert response.json()["version"] == version_id("sdxl")


async def test_who_cancels_after_a_while_has_cancelled(http: httpx.AsyncClient, system: System) -> None:
    response = await http.post(SDXL, json={"input": {"prompt": "a heron"}}, headers={"cancel-after": "1h1m5s"})
    prediction = response.json()
    headers = {"authorization": f"Bearer {system.key()}"}
    job = (await http.get(f"{system.url}/v1/jobs/{prediction['id']}", headers=headers)).json()["job"]
    assert job["annotations"]["replicate_cancel_after"] == "3665"
    # At most as long as the model lets a job take.
    assert prediction["deadline"] == job["deadline_at"]


async def test_errors_have_their_shape_everywhere(http: httpx.AsyncClient) -> None:
    for path, status in (("/nothing", 404), ("/predictions/nothing", 404), ("/files/nothing", 404)):
        response = await http.get(path)
        assert (response.status_code, response.json()["status"]) == (status, status)
        assert set(response.json()) >= {"title", "detail", "status"}
    assert (await http.put("/predictions")).json()["status"] == 405

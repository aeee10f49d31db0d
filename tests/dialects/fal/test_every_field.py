"""Every field of what fal's apps take goes over the wire: what is taken at once, what is refused one by one."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.dialects.fal.inputs import FIELDS
from gateway.dialects.fields import Field, Treatment
from tests.support.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED = [entry for entry in FIELDS if entry.treatment is Treatment.REFUSED]
NOTED = {entry.name: entry.example for entry in FIELDS if entry.treatment is Treatment.NOTED}
QUEUE = "/fal/queue"


@pytest_asyncio.fixture(loop_scope="session")
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Key {system.key()}"}
    async with httpx.AsyncClient(base_url=system.url, headers=headers, trust_env=False, timeout=20) as made:
        yield made


async def job_of(http: httpx.AsyncClient, system: System, app: str, body: dict[str, Any], **headers: str) -> Any:
    response = await http.post(f"{QUEUE}/{app}", json=body, headers=headers)
    assert response.status_code == 200, response.text
    job_id = response.json()["request_id"]
    job = (await http.get(f"/v1/jobs/{job_id}", headers={"authorization": f"Bearer {system.key()}"})).json()["job"]
    await http.put(response.json()["cancel_url"])
    return job


async def test_every_field_of_a_picture(http: httpx.AsyncClient, system: System, picture: bytes, mask: bytes) -> None:
    uris = [f"data:image/png;base64,{base64.b64encode(content).decode()}" for content in (picture, mask)]
    body = {
        **NOTED,
        "prompt": "a heron",
        "negative_prompt": "fog",
        "expand_prompt": True,
        "image_size": "square",
        "num_images": 2,
        "seed": 0,
        "num_inference_steps": 3,
        "output_format": "png",
        "image_url": uris[0],
        "mask_url": uris[1],
        "strength": 0.75,
        "sync_mode": False,
        "guidance_scale": 0,
        "scheduler": "euler",
        "loras": [{"path": "ink", "scale": 0.5}, {"path": "grain"}],
    }
    headers = {"X-Fal-Queue-Priority": "low", "X-Fal-Runner-Hint": "warm", "X-Fal-Request-Timeout": "60"}
    job = await job_of(http, system, "fal-ai/sdxl/inpainting", body, **headers)
    settings = job["generation_settings"]
    assert (job["prompt"], job["negative_prompt"], job["priority"]) == ("a heron", "fog", -10)
    assert (settings["size"], settings["quantity"], settings["seed"], settings["steps"]) == ("512x512", 2, 0, 3)
    assert (settings["guidance"], settings["scheduler"]) == (0, "euler")
    assert [(lora["name"], lora["weight"]) for lora in settings["loras"]] == [("ink", 0.5), ("grain", 1)]
    assert [stage["kind"] for stage in job["stages"]] == ["enhance", "generate"]
    references = [(reference["kind"], reference.get("strength")) for reference in job["reference_images"]]
    assert references[0] == ("init", 0.25)
    assert references[1][0] == "mask"
    noted = {name: ("true" if value is True else f"{value}") for name, value in NOTED.items()}
    told = {"dialect": "fal", "fal_app": "fal-ai/sdxl", "fal_runner_hint": "warm", "fal_start_timeout": "60"}
    assert job["annotations"] == {**noted, **told}


async def test_every_field_of_a_video(http: httpx.AsyncClient, system: System, picture: bytes) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    body = {"prompt": "a heron", "aspect_ratio": "9:16", "resolution": "480p", "duration": "2s", "image_urls": [uri]}
    job = await job_of(http, system, "fal-ai/wan/image-to-video", {**body, "enable_prompt_expansion": False})
    settings = job["generation_settings"]
    assert (settings["size"], settings["frames"], settings["frame_rate"]) == ("480x856", 32, 16)
    for name in ("frames_per_second", "fps"):
        job = await job_of(http, system, "fal-ai/wan/image-to-video", {**body, name: 12})
        assert job["generation_settings"]["frame_rate"] == 12
    assert [reference["kind"] for reference in job["reference_images"]] == ["first_frame"]
    job = await job_of(http, system, "fal-ai/wan/image-to-video", {**body, "end_image_url": uri})
    assert [reference["kind"] for reference in job["reference_images"]] == ["first_frame", "last_frame"]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ("square_hd", "1024x1024"),
        ("portrait_4_3", "768x1024"),
        ("portrait_16_9", "576x1024"),
        ("landscape_4_3", "1024x768"),
        ("landscape_16_9", "1024x576"),
        ({"width": 320, "height": 200}, "320x200"),
    ],
)
async def test_sizes_have_names(http: httpx.AsyncClient, system: System, size: Any, shown: str) -> None:
    job = await job_of(http, system, "sdxl/sdxl", {"prompt": "a heron", "image_size": size})
    assert job["generation_settings"]["size"] == shown


@pytest.mark.parametrize("entry", REFUSED, ids=lambda entry: str(entry.name))
async def test_every_field_that_is_refused_is_named(http: httpx.AsyncClient, entry: Field) -> None:
    response = await http.post(f"{QUEUE}/fal-ai/sdxl", json={"prompt": "a heron", entry.name: entry.example})
    assert response.status_code == 422, response.text
    assert response.json()["detail"][0]["loc"] == ["body", entry.name]


PICTURE = "https://example.com/a.png"


@pytest.mark.parametrize(
    ("app", "body", "location"),
    [
        ("fal-ai/sdxl", {"no_such_field": 1}, ["no_such_field"]),
        ("fal-ai/sdxl", {"prompt": ""}, ["prompt"]),
        ("fal-ai/sdxl", {"image_size": "huge"}, ["image_size"]),
        ("fal-ai/sdxl", {"image_size": {"width": 100, "height": 100}}, ["image_size", "width"]),
        ("fal-ai/sdxl", {"image_size": {"width": 9000, "height": 9000}}, ["image_size"]),
        ("fal-ai/sdxl", {"image_size": "square", "aspect_ratio": "1:1"}, ["image_size"]),
        ("fal-ai/sdxl", {"duration": 5}, ["duration"]),
        ("fal-ai/wan", {"duration": "long"}, ["duration"]),
        ("fal-ai/wan", {"num_images": 2}, ["num_images"]),
        ("fal-ai/sdxl", {"output_format": "mp4"}, ["output_format"]),
        ("fal-ai/sdxl", {"guidance_scale": 31}, ["guidance_scale"]),
        ("fal-ai/sdxl", {"loras": "ink"}, ["loras"]),
        ("fal-ai/sdxl", {"loras": [{"scale": 1}]}, ["loras"]),
        ("fal-ai/sdxl", {"loras": [{"path": "https://example.com/x.safetensors"}]}, ["loras"]),
        ("fal-ai/sdxl", {"loras": [{"path": "ink", "scale": "much"}]}, ["loras"]),
        ("fal-ai/sdxl", {"system_prompt": "x"}, ["system_prompt"]),
        ("fal-ai/chat", {"seed": 1}, ["seed"]),
        ("fal-ai/sdxl", {"image_urls": [PICTURE, PICTURE]}, ["image_urls", 1]),
        ("fal-ai/sdxl", {"strength": 0.5}, ["image_url"]),
        ("fal-ai/wan", {"end_image_url": PICTURE}, ["image_url"]),
        ("fal-ai/sdxl", {"image_url": PICTURE, "end_image_url": PICTURE}, ["end_image_url"]),
        ("fal-ai/sdxl/image-to-image", {}, ["image_url"]),
        ("fal-ai/sdxl/text-to-image", {"image_url": PICTURE}, ["image_url"]),
        ("fal-ai/sdxl/inpainting", {"image_url": PICTURE}, ["mask_url"]),
        ("fal-ai/sdxl", {"image_url": "http://10.0.0.1/a.png"}, ["image_url"]),
    ],
)
async def test_what_cannot_be_had_is_named(
    http: httpx.AsyncClient, app: str, body: dict[str, Any], location: list[Any]
) -> None:
    response = await http.post(f"{QUEUE}/{app}", json={"prompt": "a heron", **body})
    assert response.status_code == 422, response.text
    assert response.json()["detail"][0]["loc"] == ["body", *location]


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"X-Fal-Queue-Priority": "urgent"}, "X-Fal-Queue-Priority"),
        ({"X-Fal-Request-Timeout": "soon"}, "X-Fal-Request-Timeout"),
        ({"X-Fal-Request-Timeout": "nan"}, "X-Fal-Request-Timeout"),
        ({"X-Fal-Object-Lifecycle-Preference": "{}"}, "x-fal-object-lifecycle-preference"),
    ],
)
async def test_headers_that_cannot_be_had_are_named(
    http: httpx.AsyncClient, headers: dict[str, str], name: str
) -> None:
    response = await http.post(f"{QUEUE}/fal-ai/sdxl", json={"prompt": "a heron"}, headers=headers)
    assert (response.status_code, response.json()["detail"][0]["loc"][1]) == (422, name)


@pytest.mark.parametrize(
    "app", ["fal-ai", "fal-ai/sdxl/requests/x", "fal-ai/sdxl/text-to-video", "fal-ai/*", "x/wildcard"]
)
async def test_paths_that_mean_nothing_are_refused(http: httpx.AsyncClient, app: str) -> None:
    response = await http.post(f"{QUEUE}/{app}", json={"prompt": "a heron"})
    assert response.status_code in (404, 405, 422)
    assert response.json()["detail"]


@pytest.mark.parametrize(
    "target",
    [
        "",
        "https://queue.fal.run.example.com/fal-ai/sdxl",
        "http://queue.fal.run/fal-ai/sdxl",
        "https://queue.fal.run:8443/fal-ai/sdxl",
        "https://x@queue.fal.run/fal-ai/sdxl",
        "https://rest.fal.ai/queue/fal-ai/sdxl",
        "https://rest.fal.ai/tokens/",
        "https://queue.fal.run/%ff/sdxl",
        "file:///etc/passwd",
        "https://[::1",
    ],
)
async def test_the_proxy_goes_nowhere_else(http: httpx.AsyncClient, target: str) -> None:
    headers = {"x-fal-target-url": target}
    response = await http.post("/fal/proxy", json={"prompt": "a heron"}, headers=headers)
    assert response.status_code == 400, response.text
    assert "x-fal-target-url" in response.json()["detail"]

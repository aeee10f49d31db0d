"""The gateway in front of the real services: what a client can do before any worker is connected."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from service_kit.server import Running
from service_kit.settings import for_tests
from tests.gateway.sse import events

REQUESTS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "requests.jsonl").read_text("utf-8").splitlines()
    if line
]
GENERATE = "/v1/generate-content"


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """All four parts, each started as its own `__main__` starts it; the client is the operator."""
    running: list[Running] = []
    targets: dict[str, str] = {}
    for name, settings in {
        "asset_service": ("router__asset_target", "library__asset_target", "gateway__asset_target"),
        "router_service": ("library__identity_target", "gateway__router_target"),
        "library_service": ("gateway__library_target",),
        "gateway": (),
    }.items():
        part = await importlib.import_module(f"{name}.__main__").start(for_tests(tmp_path, **targets))
        running.append(part)
        targets |= dict.fromkeys(settings, part.target)
    key = (tmp_path / "keys" / "admin.key").read_text("utf-8").strip()
    base = f"http://{running[-1].target}"
    async with httpx.AsyncClient(base_url=base, headers={"x-api-key": key}, timeout=20, trust_env=False) as client:
        yield client
    for part in reversed(running):
        await part.stop()


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


async def test_bad_requests_are_refused_by_field_and_leave_nothing(http: httpx.AsyncClient) -> None:
    for case in REQUESTS:
        response = await http.post(GENERATE, json=case["request"])
        if "refused" not in case:
            assert response.status_code == 200, (case["name"], response.text)
            continue
        assert response.status_code in (400, 404), case["name"]
        error = response.json()["error"]
        assert any(case["refused"] in problem["field"] for problem in error["fields"]), (case["name"], error)
    jobs = (await http.get("/v1/jobs?page_size=200")).json()["jobs"]
    assert len(jobs) == sum("refused" not in case for case in REQUESTS)


async def test_a_job_is_watched_to_its_end_and_then_no_more(http: httpx.AsyncClient) -> None:
    body = {"prompt": "a heron", "model": "sdxl", "format": "image", "seed": 0, "quantity": 2}
    reply = (await http.post(GENERATE, json=body)).json()
    assert (reply["state"], reply["generation_settings"]["seed"], len(reply["asset_ids"])) == ("queued", 0, 2)
    url = f"/v1/jobs/{reply['job_id']}/events"
    async with http.stream("GET", url) as response, aclosing(events(response)) as lines:
        found = [await anext(lines), await anext(lines)]
        assert [event.name for event in found] == ["comment", "snapshot"]
        assert (await http.post(f"/v1/jobs/{reply['job_id']}/cancel")).json()["job"]["state"] == "cancelled"
        rest = [event async for event in lines]
    assert [event.data["state"]["state"] for event in rest if event.name == "state"] == ["cancelled"]
    again = await http.get(url, headers={"last-event-id": rest[-1].id})
    assert again.status_code == 204
    # A cursor of an event before that resumes there.
    missed = await http.get(url, headers={"last-event-id": found[-1].id})
    assert '"state":"cancelled"' in missed.text


async def test_a_file_is_brought_seen_saved_and_announced(http: httpx.AsyncClient) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(picture, "PNG")
    content = picture.getvalue()
    uploaded = await http.post("/v1/uploads?filename=teal.png", content=content, headers={"content-type": "image/png"})
    asset: dict[str, Any] = uploaded.json()["asset"]
    assert (asset["format"], asset["media"]["width"], asset["filename"]) == ("image", 64, "teal.png")
    part = await http.get(_path(asset["url"]), headers={"range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, content[:8])
    async with http.stream("GET", "/v1/events") as response, aclosing(events(response)) as lines:
        seen: set[str] = set()
        while not {"jobs.snapshot", "assets.snapshot", "items.snapshot"} <= seen:
            seen.add((await anext(lines)).name)
        saved = (await http.post("/v1/save-to-library", json={"asset_ids": [asset["asset_id"]]})).json()["results"]
        while not {"items.saved", "assets.changed"} <= seen:
            seen.add((await anext(lines)).name)
    item = saved[0]["item"]
    assert (await http.get(_path(item["url"]))).content == content
    assert (await http.get(f"/v1/assets/{asset['asset_id']}")).json()["asset"]["saved_item_id"] == item["item_id"]


async def test_broken_files_are_refused(http: httpx.AsyncClient) -> None:
    text = await http.post("/v1/uploads", content=b"this is no picture")
    assert (text.status_code, text.json()["error"]["reason"]) == (400, "unsupported_media")
    wrong = await http.post(f"/v1/uploads?sha256={'0' * 64}", content=b"\x89PNG\r\n\x1a\n")
    assert wrong.status_code == 400
    assert (await http.get("/v1/assets")).json()["assets"] == []


async def test_somebody_elses_things_are_not_there(http: httpx.AsyncClient) -> None:
    body = {"prompt": "a heron", "model": "sdxl", "format": "image"}
    job_id = (await http.post(GENERATE, json=body)).json()["job_id"]
    made = (await http.post("/v1/keys", json={"owner_id": "bob"})).json()
    bob = {"x-api-key": made["secret"]}
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events")):
        response = await http.request(method, f"/v1/jobs/{job_id}{path}", headers=bob)
        assert (response.status_code, response.json()["error"]["reason"]) == (404, "not_found"), path
    assert (await http.get("/v1/jobs", headers=bob)).json()["jobs"] == []
    assert (await http.get("/v1/keys", headers=bob)).status_code == 403


async def test_a_request_has_one_id_in_every_service_and_in_its_error(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(picture, "PNG")
    asset_id = (await http.post("/v1/uploads", content=picture.getvalue())).json()["asset"]["asset_id"]

    def heard(request_id: str) -> set[tuple[str, str]]:
        """Return which RPCs were served under an id, and with which code."""
        fields = [record.__dict__.get("atelier_fields", {}) for record in caplog.records]
        return {
            (f["method"].rpartition("/")[2], f["code"])
            for f in fields
            if f.get("request_id") == request_id and "code" in f
        }

    async def hear(request_id: str, calls: set[tuple[str, str]]) -> None:
        # A service answers a refusal first, and then logs it.
        async with asyncio.timeout(5):
            while not calls <= heard(request_id):  # noqa: ASYNC110 - a log tells nobody
                await asyncio.sleep(0.01)

    def body(reference: str) -> dict[str, Any]:
        reference_image = {"asset_id": reference, "kind": "style"}
        return {"prompt": "x", "model": "sdxl", "format": "image", "reference_images": [reference_image]}

    response = await http.post(GENERATE, json=body(asset_id), headers={"x-request-id": "good-1"})
    assert (response.status_code, response.headers["x-request-id"]) == (200, "good-1")
    await hear("good-1", {("GenerateContent", "OK"), ("TakeHold", "OK")})
    response = await http.post(GENERATE, json=body("nobodys"), headers={"x-request-id": "bad-1"})
    assert (response.json()["error"]["request_id"], response.headers["x-request-id"]) == ("bad-1", "bad-1")
    await hear("bad-1", {("GenerateContent", "NOT_FOUND"), ("TakeHold", "NOT_FOUND")})
    saved = await http.post("/v1/save-to-library", json={"asset_ids": [asset_id]}, headers={"x-request-id": "save-1"})
    assert saved.status_code == 200
    assert {"SaveToLibrary", "GetSavable"} & {rpc for rpc, _ in heard("save-1")} and len(heard("save-1")) > 1
    for odd in ("a b", "x" * 65, "<script>"):
        made = (await http.get("/v1/jobs", headers={"x-request-id": odd})).headers["x-request-id"]
        assert made != odd and heard(made) == {("ListJobs", "OK")}


async def test_a_browser_signs_in_once(http: httpx.AsyncClient) -> None:
    code = (await http.post("/v1/sign-in-codes")).json()["code"]
    async with httpx.AsyncClient(base_url=http.base_url, trust_env=False) as browser:
        assert (await browser.post("/v1/sessions", json={"code": code})).status_code == 200
        assert (await browser.get("/v1/identity")).json()["kind"] == "session"
        assert (await browser.post(GENERATE, json={})).status_code == 401
        assert (await browser.post("/v1/sessions", json={"code": code})).status_code == 401


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.revocations.PAUSE", timedelta(milliseconds=20))


async def test_a_revoked_key_is_of_no_use_soon_and_its_streams_end(quick_looks: None, http: httpx.AsyncClient) -> None:
    made = (await http.post("/v1/keys", json={"owner_id": "ada"})).json()
    other = (await http.post("/v1/keys", json={"owner_id": "bob"})).json()
    ada, bob = ({"x-api-key": key["secret"]} for key in (made, other))
    async with (
        asyncio.timeout(15),
        http.stream("GET", "/v1/events", headers=ada) as merged,
        http.stream("GET", "/v1/events/jobs", headers=ada) as single,
        http.stream("GET", "/v1/events/jobs", headers=bob) as spared,
    ):
        assert [each.status_code for each in (merged, single, spared)] == [200] * 3
        await http.delete(f"/v1/keys/{made['key']['key_id']}")
        for response in (merged, single):
            last = [event async for event in events(response) if event.name != "comment"][-1]
            assert (last.name, last.data["error"]["status"]) == ("error", "UNAUTHENTICATED")
        assert (await http.get("/v1/jobs", headers=ada)).status_code == 401
        await http.post("/v1/generate-content", json={"prompt": "x", "model": "sdxl", "format": "image"}, headers=bob)
        async with aclosing(events(spared)) as lines:
            heard = [await anext(lines) for _ in range(3)]
        assert "state" in {event.name for event in heard}


async def test_streams_of_dialects_end_with_their_key_each_in_its_own_words(
    quick_looks: None, http: httpx.AsyncClient
) -> None:
    made = (await http.post("/v1/keys", json={"owner_id": "ada"})).json()
    admin = {"x-api-key": http.headers["x-api-key"]}
    http.headers["x-api-key"] = made["secret"]
    picture = {"model": "sdxl", "prompt": "a heron"}
    said = {"model": "chat", "messages": [{"role": "user", "content": "a bird?"}], "stream": True}
    prediction = (await http.post("/replicate/v1/models/any/sdxl/predictions", json={"input": {"prompt": "x"}})).json()
    queued = (await http.post("/fal/queue/fal-ai/sdxl", json={"prompt": "a heron"})).json()
    status = f"/fal/queue/fal-ai/sdxl/requests/{queued['request_id']}/status/stream"
    ways: dict[str, tuple[str, str, Any]] = {
        "images": ("POST", "/openai/v1/images/generations", {**picture, "stream": True}),
        "waiting": ("POST", "/openai/v1/images/generations", picture),
        "chat": ("POST", "/openai/v1/chat/completions", said),
        "responses": ("POST", "/openai/v1/responses", {"model": "chat", "input": "a bird?", "stream": True}),
        "fal": ("POST", "/fal/run/fal-ai/sdxl/stream", {"prompt": "a heron"}),
        "fal status": ("GET", status, None),
        "replicate": ("GET", f"/replicate/v1/predictions/{prediction['id']}/stream", None),
    }

    async def last(name: str) -> tuple[str, str]:
        method, path, body = ways[name]
        async with http.stream(method, path, json=body) as response:
            opened[name].set()
            if name == "waiting":
                return str(response.status_code), (await response.aread()).decode()
            told = [event async for event in events(response) if event.name != "comment"]
            return told[-1].name, told[-1].text

    opened = {name: asyncio.Event() for name in ways}
    async with asyncio.timeout(15):
        reading = {name: asyncio.create_task(last(name)) for name in ways}
        await asyncio.gather(*(each.wait() for name, each in opened.items() if name != "waiting"))
        assert (await http.delete(f"/v1/keys/{made['key']['key_id']}", headers=admin)).status_code == 200
        heard = {name: await task for name, task in reading.items()}
    why = "The key is wrong, or works no more."
    of_openai = {"message": why, "type": "authentication_error", "param": None, "code": "invalid_identity"}
    names = {name: event for name, (event, _) in heard.items()}
    assert names == dict.fromkeys(("images", "responses", "replicate"), "error") | {"waiting": "401"} | dict.fromkeys(
        ("chat", "fal", "fal status"), "message"
    )
    assert heard.pop("replicate")[1] == why
    data = {name: json.loads(text) for name, (_, text) in heard.items()}
    assert data["images"] == {"type": "error", "error": of_openai}
    assert data["chat"] == data["waiting"] == {"error": of_openai}
    assert (data["responses"]["message"], data["responses"]["code"]) == (why, "invalid_identity")
    assert data["fal"] == data["fal status"] == {"error": why, "error_type": "bad_request"}

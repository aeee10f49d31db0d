"""A whole Atelier in which Ann has one of everything, and Bob has a key of his own."""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

from service_kit.ids import new_id
from tests.support.system import System

# Words that stand only in what Ann has.
PROMPT, TITLE, TAG, COLLECTION, FILENAME = "anns-lantern", "anns-title", "anns-tag", "anns-shelf", "anns-file.png"
IMPORT = hashlib.sha256(b"anns-import").hexdigest()
_WITHIN_S = 20.0


def picture(color: str) -> bytes:
    """Return a small PNG."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "PNG")
    return file.getvalue()


@dataclass
class House:
    """Who is there, and what Ann has, by the names that cases use."""

    http: httpx.AsyncClient
    ann: str
    bob: str
    things: dict[str, str] = field(default_factory=dict)
    never: dict[str, str] = field(default_factory=dict)
    bobs_item: str = ""

    async def call(self, key: str, method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request with somebody's key."""
        return await self.http.request(method, url, headers={"x-api-key": key, **options.pop("headers", {})}, **options)

    async def done(self, key: str, method: str, url: str, **options: Any) -> dict[str, Any]:
        """Send a request that must succeed. Returns its reply."""
        response = await self.call(key, method, url, **options)
        assert response.status_code == 200, (method, url, response.text)
        reply: dict[str, Any] = response.json()
        return reply

    async def ended(self, job_id: str) -> None:
        """Wait until a job of Ann's has succeeded."""
        async with asyncio.timeout(_WITHIN_S):
            while True:
                job = (await self.done(self.ann, "GET", f"/v1/jobs/{job_id}"))["job"]
                if job["state"] == "succeeded":
                    return
                assert job["state"] not in ("failed", "cancelled"), job
                await asyncio.sleep(0.05)

    def secrets(self) -> set[str]:
        """Return what no reply to Bob may hold: Ann's ids and words, unless he has sent them himself."""
        return {PROMPT, TITLE, TAG, COLLECTION, FILENAME, *self.things.values()}


async def furnish(system: System, http: httpx.AsyncClient) -> House:
    """Make Ann, Bob, and what they have."""
    async with system.client() as operator:
        ann, bob = [(await operator.create_key(owner)).secret for owner in ("ann", "bob")]
    house = House(http, ann, bob)
    bobs = (await house.done(bob, "POST", "/v1/uploads", content=picture("blue")))["asset"]["asset_id"]
    house.bobs_item = await save(house, bob, bobs)

    spec: dict[str, Any] = {"prompt": PROMPT, "model": "sdxl", "format": "image", "quality": "draft", "steps": 2}
    spec |= {"webhook": {"url": "https://hooks.invalid/"}}
    house.things["job"] = (await house.done(ann, "POST", "/v1/generate-content", json=spec))["job_id"]
    await house.ended(house.things["job"])
    told = await house.done(ann, "GET", "/v1/webhooks/deliveries", params={"job_id": house.things["job"]})
    house.things["delivery"] = told["deliveries"][0]["delivery_id"]
    described = {"import_key": IMPORT, "prompt": PROMPT, "path": FILENAME}
    await house.done(ann, "POST", "/v1/imports", json=described)
    uploaded = await house.done(
        ann, "POST", "/v1/uploads", params={"filename": FILENAME, "import_key": IMPORT}, content=picture("teal")
    )
    house.things["asset"] = uploaded["asset"]["asset_id"]
    made = (await house.done(ann, "GET", "/v1/assets", params={"job_id": house.things["job"]}))["assets"][0]
    house.things["output"] = made["asset_id"]
    house.things["item"] = await save(house, ann, house.things["asset"])
    change = {"title": TITLE, "tags": {"tags": [TAG]}}
    await house.done(ann, "PATCH", f"/v1/items/{house.things['item']}", json=change)
    shelf = await house.done(ann, "POST", "/v1/collections", json={"name": COLLECTION})
    house.things["collection"] = shelf["collection"]["collection_id"]
    put = {"item_ids": [house.things["item"]], "add_to_collection_id": house.things["collection"]}
    await house.done(ann, "POST", "/v1/change-items", json=put)
    content = picture("red")
    begun = await house.done(
        ann,
        "POST",
        "/v1/uploads/resumable",
        json={"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
    )
    house.things["upload"] = begun["upload"]["upload_id"]
    house.never = {name: new_id() for name in house.things} | {"import": hashlib.sha256(b"never").hexdigest()}
    house.things["import"] = IMPORT
    return house


async def save(house: House, key: str, asset_id: str) -> str:
    """Save an asset. Returns the item's id."""
    reply = await house.done(key, "POST", "/v1/save-to-library", json={"asset_ids": [asset_id]})
    item_id: str = reply["results"][0]["item"]["item_id"]
    return item_id

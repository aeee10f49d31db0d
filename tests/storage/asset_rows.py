"""Rows of the asset service's storage, for tests."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

from asset_service.domain import (
    Asset,
    AssetSource,
    AssetState,
    Blob,
    Media,
    RenditionFile,
    RenditionKind,
    Upload,
    UploadState,
)
from asset_service.storage import Storage
from service_kit.clock import ManualClock
from service_kit.identity import Owner

ANN, BOB, OTHER = Owner("t", "ann"), Owner("t", "bob"), Owner("u", "ann")
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
PNG = Media("image/png", 2**40, "ab", 640, 480)


def asset(asset_id: str, clock: ManualClock, **changes: Any) -> Asset:
    thumb = RenditionFile(RenditionKind.THUMB_256, Blob("workspace", f"thumb-{asset_id}", "1"), PNG)
    made = Asset(
        asset_id=asset_id,
        owner=ANN,
        job_id=None,
        asset_index=0,
        source=AssetSource.UPLOAD,
        state=AssetState.AVAILABLE,
        media=PNG,
        blob=Blob("workspace", f"key-{asset_id}", "7"),
        renditions=(thumb,),
        provenance=b"\0prov",
        filename="café.png",
        saved_item_id="",
        saved_version=0,
        created_at=clock.now(),
        expires_at=clock.now() + HOUR,
        version=1,
    )
    return dataclasses.replace(made, **changes)


def upload(upload_id: str, **changes: Any) -> Upload:
    made = Upload(
        upload_id=upload_id,
        asset_id=f"asset-{upload_id}",
        owner=ANN,
        job_id="j1",
        stage=0,
        fence=1,
        asset_index=0,
        rendition=None,
        key=f"key-{upload_id}",
        size_bytes=2**40,
        sha256=upload_id,
        state=UploadState.OPEN,
    )
    return dataclasses.replace(made, **changes)


async def put(storage: Storage, *things: Asset | Upload) -> None:
    async with storage.write() as tx:
        for thing in things:
            if isinstance(thing, Asset):
                await tx.assets.add(thing)
            else:
                await tx.uploads.add(thing)

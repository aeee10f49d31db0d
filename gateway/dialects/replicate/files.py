"""`/replicate/v1/files`: files that clients bring, as uploads of the workspace."""

from __future__ import annotations

import json
from typing import Any

from atelier.asset.v1 import asset_pb2, asset_service_pb2
from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint, says_422
from gateway.dialects.fields import Kind, Upload, mapped
from gateway.dialects.pictures import FILES
from gateway.dialects.progress import moment
from gateway.dialects.replicate.catalogue import ROOT
from gateway.http import Reply
from service_kit.clock import rfc3339
from service_kit.errors import InvalidArgument, NotFound

_PAGE = 200
_MEDIA = ("image/", "video/")


@says_422
async def create(call: Call) -> Reply:
    """Bring in a picture or a video."""
    values = await call.values()
    upload: Upload = values.get("content")
    _check_metadata(values.get("metadata"))
    said = values.text("type", upload.content_type)
    asset_id = await call.kit.context.references.from_bytes(
        upload.content,
        await call.access(),
        field="content",
        # Clients that do not know the type say one that says nothing: then the bytes alone tell.
        content_type=said if said.startswith(_MEDIA) else "",
        filename=values.text("filename", upload.filename),
    )
    return json_reply(_file(call, await call.jobs.asset(asset_id)), 201)


def _check_metadata(metadata: Any) -> None:
    """Raise InvalidArgument unless the metadata is nothing: an empty object, which one client always sends."""
    if metadata is None:
        return
    text = metadata.content.decode("utf-8", "replace") if isinstance(metadata, Upload) else metadata
    try:
        empty = json.loads(text) == {} if isinstance(text, str) else text == {}
    except (ValueError, RecursionError):
        empty = False
    if not empty:
        raise InvalidArgument.field("metadata", "cannot be kept with a file; leave it out")


@says_422
async def find(call: Call) -> Reply:
    """Answer a page of the caller's uploads, newest first."""
    token = call.query().text("cursor")
    page = await call.jobs.find_assets(asset_service_pb2.ListAssetsRequest(page_size=_PAGE, page_token=token))
    results = [_file(call, asset) for asset in page.assets if asset.source == asset_pb2.ASSET_SOURCE_UPLOAD]
    following = f"{call.kit.public_url}{ROOT}/files?cursor={page.next_page_token}" if page.next_page_token else None
    return json_reply({"previous": None, "next": following, "results": results})


@says_422
async def get(call: Call) -> Reply:
    """Answer a file."""
    return json_reply(_file(call, await _upload(call)))


@says_422
async def delete(call: Call) -> Reply:
    """Discard a file."""
    asset = await _upload(call)
    await call.jobs.discard([asset.asset_id])
    return Reply(204, {"cache-control": "no-store"})


async def _upload(call: Call) -> asset_pb2.Asset:
    """Return the upload that the path names. Raises NotFound for an asset that is none, or was discarded."""
    asset = await call.jobs.asset(call.path["id"])
    if asset.source != asset_pb2.ASSET_SOURCE_UPLOAD or asset.state != asset_pb2.ASSET_STATE_AVAILABLE:
        raise NotFound.of("file", call.path["id"])
    return asset


def _file(call: Call, asset: asset_pb2.Asset) -> dict[str, Any]:
    return {
        "id": asset.asset_id,
        "name": asset.filename or asset.asset_id,
        "content_type": asset.media.content_type,
        "size": asset.media.size_bytes,
        "etag": asset.media.sha256,
        "checksums": {"sha256": asset.media.sha256},
        "metadata": {},
        "created_at": rfc3339(moment(asset.created_at)),
        "expires_at": rfc3339(moment(asset.expires_at)) if asset.HasField("expires_at") else None,
        "urls": {"get": f"{call.kit.public_url}{FILES}{asset.asset_id}"},
    }


_FIELDS = (
    mapped("content", "the bytes of an upload", Upload("a.png", "image/png", b"\x89PNG"), Kind.FILE, required=True),
    mapped("filename", "`filename`", "heron.png"),
    mapped("type", "`content_type`", "image/png"),
    mapped("metadata", "nothing: only an empty object is taken", "{}", Kind.ANY),
)
_CURSOR = (mapped("cursor", "`page_token`", "from-next"),)
ENDPOINTS = (
    Endpoint("POST", f"{ROOT}/files", create, _FIELDS, note="A multipart form; pictures and videos only."),
    Endpoint("GET", f"{ROOT}/files", find, query=_CURSOR, note="A page may have fewer files than it has room for."),
    Endpoint("GET", f"{FILES}{{id}}", get, note="`urls.get` stands for the file wherever a prediction takes one."),
    Endpoint("DELETE", f"{FILES}{{id}}", delete, note="The upload is discarded."),
)

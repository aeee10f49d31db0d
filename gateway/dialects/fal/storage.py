"""`/fal/storage`: files that clients bring before they name them in a request.

A client asks where to, sends the bytes there without a key, and puts the address that it was told into the request.
"""

from __future__ import annotations

from datetime import timedelta

from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint, says_422
from gateway.dialects.fields import mapped
from gateway.dialects.pictures import FAL_FILES
from gateway.dialects.uploads import Uploads
from gateway.http import Reply
from service_kit.errors import InvalidArgument
from service_kit.ids import new_id

ROOT = "/fal/storage"
_PURPOSE = "upload of a file"
_LASTS = timedelta(hours=1)
_MEDIA = ("image/", "video/")


@says_422
async def initiate(call: Call) -> Reply:
    """Say where to send a file, and the address that it will have in requests."""
    values = await call.values()
    call.query()
    refuse_lifecycle(call)
    entries, name = await call.access(), new_id()
    asset_id = await Uploads(call.kit.calls, call.access).reserve(name)
    grant = call.kit.grants.sign(entries, _PURPOSE, name, _LASTS)
    return where_to(call, f"{ROOT}/upload", grant, asset_id, values.text("file_name"))


@says_422
async def upload(call: Call) -> Reply:
    """Bring a file in. Whoever has the address may do it, once: a repeat is answered as the first."""
    grant = call.kit.grants.read(call.query().text("grant"), _PURPOSE)
    call.act_for(grant)
    # Before the body is read: the key may have been revoked since the address was made.
    await call.access()
    length = call.headers.get("content-length", "")
    await Uploads(call.kit.calls, call.access).take(
        grant.subject,
        media_type(call.headers.get("content-type", "")),
        int(length) if length.isdecimal() else 0,
        call.exchange.body_chunks(),
    )
    return json_reply({})


def refuse_lifecycle(call: Call) -> None:
    """Raise InvalidArgument for a file that is to live for as long as its client says."""
    if "x-fal-object-lifecycle" in call.headers:
        raise InvalidArgument.field("X-Fal-Object-Lifecycle", "cannot be chosen here: files expire with the workspace")


def media_type(said: str) -> str:
    """Return the type that a client says a file has; empty for one that says nothing, which the bytes tell."""
    return said[:100] if said.startswith(_MEDIA) else ""


def where_to(call: Call, path: str, grant: str, asset_id: str, file_name: str) -> Reply:
    """Return the answer that says where to send a file."""
    root = call.kit.public_url
    return json_reply(
        {
            "upload_url": f"{root}{path}?grant={grant}",
            "file_url": f"{root}{FAL_FILES}{asset_id}",
            "file_name": file_name[:100],
        }
    )


_FIELDS = (
    mapped("content_type", "nothing: the upload says it again", "image/png"),
    mapped("file_name", "the answer's `file_name`", "heron.png"),
)
STORAGE = (mapped("storage_type", "nothing: there is one storage", "fal-cdn-v3", choices=("fal-cdn-v3", "gcs")),)
GRANT = (mapped("grant", "whose file it is", "from-upload_url", required=True),)
ENDPOINTS = (
    Endpoint(
        "POST",
        f"{ROOT}/upload/initiate",
        initiate,
        _FIELDS,
        STORAGE,
        note="Pictures and videos, `asset.max_upload_bytes` at most. `file_url` stands for the file wherever a request "
        "takes one.",
    ),
    Endpoint("PUT", f"{ROOT}/upload", upload, query=GRANT, open=True, note="The body is the file."),
)

"""`/fal/storage`: files that the JavaScript client brings before it names them in a request.

It asks where to, sends the bytes there without a key, and puts the address that it was told into the request.
"""

from __future__ import annotations

from datetime import timedelta

from gateway.dialects import forms
from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint, says_422
from gateway.dialects.fields import mapped
from gateway.dialects.pictures import FAL_FILES
from gateway.http import Reply
from gateway.status import body_too_large
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
    if "x-fal-object-lifecycle" in call.headers:
        raise InvalidArgument.field("X-Fal-Object-Lifecycle", "cannot be chosen here: files expire with the workspace")
    entries, name = await call.access(), new_id()
    asset_id = await call.kit.context.references.reserve(name, entries)
    grant = call.kit.grants.sign(entries, _PURPOSE, name, _LASTS)
    upload_url = f"{call.kit.public_url}{ROOT}/upload?grant={grant}"
    return json_reply(
        {
            "upload_url": upload_url,
            "file_url": f"{call.kit.public_url}{FAL_FILES}{asset_id}",
            "file_name": values.text("file_name")[:100],
        }
    )


@says_422
async def upload(call: Call) -> Reply:
    """Bring a file in. Whoever has the address may do it, once: a repeat is answered as the first."""
    grant = call.kit.grants.read(call.query().text("grant"), _PURPOSE)
    call.act_for(grant)
    # Before the body is read: the key may have been revoked since the address was made.
    access = await call.access()
    content = await call.exchange.body(forms.MAX_FORM_BYTES, body_too_large)
    said = call.headers.get("content-type", "")
    await call.kit.context.references.from_bytes(
        content,
        access,
        field="file",
        content_type=said if said.startswith(_MEDIA) else "",
        reserved=grant.subject,
    )
    return json_reply({})


@says_422
async def refuse_parts(call: Call) -> Reply:
    """Refuse what its client would send in parts: it is larger than any file that a request may name.

    Raises:
        ResourceExhausted: always.
    """
    raise body_too_large(forms.MAX_FORM_BYTES)


_FIELDS = (
    mapped("content_type", "nothing: the upload says it again", "image/png"),
    mapped("file_name", "the answer's `file_name`", "heron.png"),
)
_STORAGE = (mapped("storage_type", "nothing: there is one storage", "fal-cdn-v3", choices=("fal-cdn-v3", "gcs")),)
_GRANT = (mapped("grant", "whose file it is", "from-upload_url", required=True),)
ENDPOINTS = (
    Endpoint(
        "POST",
        f"{ROOT}/upload/initiate",
        initiate,
        _FIELDS,
        _STORAGE,
        note="Pictures and videos, 32 MiB at most. `file_url` stands for the file wherever a request takes one.",
    ),
    Endpoint(
        "POST",
        f"{ROOT}/upload/initiate-multipart",
        refuse_parts,
        note="Clients ask for it with files over 90 MB, which are larger than what is taken: 413.",
    ),
    Endpoint("PUT", f"{ROOT}/upload", upload, query=_GRANT, open=True, note="The body is the file."),
)

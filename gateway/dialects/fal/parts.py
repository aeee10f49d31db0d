"""`/fal/storage/parts`: large files, which clients send in parts of 10 MiB, one after another.

Nothing of a part is kept here: what comes is appended to an upload of the asset service, which knows where it ends. So
a part that broke off goes on there, a repeat changes nothing, and any gateway takes any part.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint, says_422
from gateway.dialects.fal.storage import GRANT, ROOT, STORAGE, media_type, refuse_lifecycle, where_to
from gateway.dialects.fields import Kind, mapped
from gateway.dialects.uploads import Uploads
from gateway.http import Reply
from service_kit.errors import ErrorReason, FailedPrecondition, InvalidArgument, ResourceExhausted

PART_BYTES = 10 << 20
"""The size of every part but the last, as fal's clients cut files."""
_MOST_PARTS = 10_000
_PURPOSE = "upload of a file in parts"
_LASTS = timedelta(days=1)
_NUMBER = re.compile(r"[1-9][0-9]{0,4}")
_ETAG = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,7})")


@says_422
async def initiate(call: Call) -> Reply:
    """Say where to send the parts of a file, and the address that it will have in requests."""
    values = await call.values()
    call.query()
    refuse_lifecycle(call)
    entries, name = await call.access(), _plain(values.text("file_name"))
    upload_id = await Uploads(call.kit.calls, call.access).begin(name, media_type(values.text("content_type")))
    grant = call.kit.grants.sign(entries, _PURPOSE, upload_id, _LASTS)
    return where_to(call, f"{ROOT}/parts", grant, upload_id, values.text("file_name"))


@says_422
async def take(call: Call) -> Reply:
    """Take one part, or what is missing of it, after all parts before it. A repeat must bring the same bytes.

    Raises:
        FailedPrecondition: the parts before it have not come whole.
        NotFound: the file is complete, or was given up.
    """
    uploads, upload_id = await _granted(call)
    number = _number(call.path["part"])
    there, begins = await uploads.received(upload_id), (number - 1) * PART_BYTES
    if there < begins:
        raise FailedPrecondition(
            f"Part {there // PART_BYTES + 1} is to come before part {number}: send the parts in order, {PART_BYTES} "
            "bytes each but the last.",
            ErrorReason.INCOMPLETE_UPLOAD,
        )
    part = _Part(call.exchange.body_chunks(), there - begins)
    if there < begins + PART_BYTES:
        await uploads.append(upload_id, there, part.missing())
    else:
        # It was taken whole; its answer was lost.
        async for _ in part.missing():
            pass
    return json_reply({"partNumber": number, "etag": part.etag}, headers={"etag": f'"{part.etag}"'})


@says_422
async def complete(call: Call) -> Reply:
    """Make the file of its parts. Safe to repeat."""
    uploads, upload_id = await _granted(call)
    values = await call.values()
    await uploads.complete(upload_id, _whole(values.list("parts")))
    return json_reply({})


class _Part:
    """A part as it comes: counted, and without the bytes that are there already."""

    def __init__(self, chunks: AsyncIterator[bytes], there: int) -> None:
        self._chunks = chunks
        self._there = there
        self._digest = hashlib.sha256()
        self._size = 0

    @property
    def etag(self) -> str:
        """What the client says again at the end: a digest and the size. Raises InvalidArgument for an empty part."""
        if not self._size:
            raise InvalidArgument.field("body", "must be the bytes of the part, and is empty")
        return f"{self._digest.hexdigest()[:32]}-{self._size}"

    async def missing(self) -> AsyncIterator[bytes]:
        """Give what is not there yet. Raises ResourceExhausted for a part that is too large."""
        async for chunk in self._chunks:
            known = max(0, self._there - self._size)
            self._size += len(chunk)
            if self._size > PART_BYTES:
                raise ResourceExhausted(
                    f"A part has {PART_BYTES} bytes; this one has {self._size} or more.", ErrorReason.BODY_TOO_LARGE
                )
            self._digest.update(chunk)
            if known < len(chunk):
                yield chunk[known:]


async def _granted(call: Call) -> tuple[Uploads, str]:
    """Return the uploads of whoever the address was made for, and which one it opens. Raises Unauthenticated."""
    grant = call.kit.grants.read(call.query().text("grant"), _PURPOSE)
    call.act_for(grant)
    # Before the body is read: the key may have been revoked since the address was made.
    await call.access()
    return Uploads(call.kit.calls, call.access), grant.subject


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > _MOST_PARTS:
        raise InvalidArgument.field("part", f"must be 1..{_MOST_PARTS}, got {text[:20]!r}", ErrorReason.OUT_OF_RANGE)
    return int(text)


def _whole(parts: Sequence[Any]) -> int:
    """Return the size of a file that has these parts. Raises InvalidArgument unless they are all of one, in order."""
    sizes: list[int] = []
    for index, part in enumerate(parts):
        named = part if isinstance(part, Mapping) else {}
        found = _ETAG.fullmatch(str(named.get("etag", "")).strip('"'))
        if named.get("partNumber") != index + 1 or found is None:
            raise InvalidArgument.field(
                f"parts[{index}]", f"must be part {index + 1} with the etag that was answered; got {str(part)[:60]!r}"
            )
        sizes.append(int(found[1]))
    short = next((index for index, size in enumerate(sizes[:-1]) if size != PART_BYTES), None)
    if short is not None:
        message = f"has {sizes[short]} bytes, and every part but the last has {PART_BYTES}"
        raise InvalidArgument.field(f"parts[{short}]", message)
    return sum(sizes)


def _plain(name: str) -> str:
    return "".join(character for character in name[:255] if character.isprintable())


_FIELDS = (
    mapped("content_type", "what the file must be, where it names a picture or a video", "video/mp4"),
    mapped("file_name", "the answer's `file_name`, and `filename` of the asset", "heron.mp4"),
)
_PARTS = (
    mapped(
        "parts",
        "the size of the file: every part in order, with its `partNumber` and `etag`",
        {"partNumber": 1, "etag": f"{'0' * 32}-77"},
        Kind.OBJECT,
        required=True,
        repeated=True,
    ),
)
ENDPOINTS = (
    Endpoint(
        "POST",
        f"{ROOT}/upload/initiate-multipart",
        initiate,
        _FIELDS,
        STORAGE,
        note="Clients ask for it with files over 90 MiB: `asset.max_upload_bytes` must allow them. What is not "
        "completed within `asset.upload_ttl` after its last part is removed.",
    ),
    Endpoint("POST", f"{ROOT}/parts/complete", complete, _PARTS, GRANT, open=True),
    Endpoint(
        "PUT",
        f"{ROOT}/parts/{{part}}",
        take,
        query=GRANT,
        open=True,
        note="The body is the part: 10 MiB, but the last. The parts come in order.",
    ),
)

"""Files that a request names instead of sending them: URLs and data URIs become assets of the caller's workspace."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import unquote_to_bytes

import grpc

from atelier.asset.v1 import upload_service_pb2, upload_service_pb2_grpc
from gateway.backends import Metadata
from gateway.status import of_rpc
from service_kit.call_endings import Ending
from service_kit.destinations import Refused
from service_kit.errors import ErrorReason, InvalidArgument, PermissionDenied, ResourceExhausted, Unauthenticated
from service_kit.identity import AUTHORIZATION, ON_BEHALF_OF, IdentityVerifier, Scope
from service_kit.outgoing import Fetched, Outgoing, Unreachable

_ACCEPT = "image/*,video/*;q=0.8,application/octet-stream;q=0.5"
_TYPES = ("image/", "video/")
_UNSAID_TYPES = ("", "application/octet-stream", "binary/octet-stream")
_PIECE_BYTES = 256 << 10
_BEARER = "Bearer "
# Of a data URI: what stands before the comma, and how much of the rest may be escaped. In one call of the interpreter
# millions of pieces are cut apart, and no thread runs beside it.
_LONGEST_HEAD = 500
_MOST_ESCAPES = 500_000


@dataclass(frozen=True, slots=True)
class ReferenceLimits:
    """What one file may cost: bytes and time, and how many are fetched at once by this gateway."""

    max_bytes: int
    timeout: timedelta
    at_once: int


class References:
    """Brings files in. Every method returns the id of an asset, and names `field` in its errors.

    `entries` is the metadata of calls for the caller. Not idempotent: each call makes an asset, which expires as any
    other.
    """

    def __init__(
        self,
        assets: grpc.aio.Channel,
        outgoing: Outgoing,
        own: Outgoing,
        own_media: str,
        verifier: IdentityVerifier,
        limits: ReferenceLimits,
    ) -> None:
        """Fetch with `outgoing`, and what begins with `own_media`, our own signed URLs, with `own`."""
        self._uploads = upload_service_pb2_grpc.UploadServiceStub(assets)
        self._outgoing = outgoing
        self._own = own
        self._own_media = own_media
        self._verifier = verifier
        self._limits = limits
        self._fetching: Counter[str] = Counter()

    async def from_text(self, text: str, entries: Metadata, *, field: str) -> str:
        """Bring in what a URL or a data URI names. Raises what those two raise."""
        bring = self.from_data_uri if text[:5].lower() == "data:" else self.from_url
        return await bring(text, entries, field=field)

    async def from_url(self, url: str, entries: Metadata, *, field: str) -> str:
        """Fetch a file and bring it in, piece by piece.

        Raises:
            InvalidArgument: the URL is refused or cannot be fetched, the file is too large or no picture or video.
            ResourceExhausted: too many are fetched at this moment.
            Unauthenticated: nobody is known to want this.
            AtelierError: the asset service refuses the file.
        """
        client = self._own if url.startswith(self._own_media) else self._outgoing
        with self._place(self._check_caller(entries)):
            try:
                async with client.get(
                    url, accept=_ACCEPT, limit=self._limits.timeout, max_bytes=self._limits.max_bytes
                ) as fetched:
                    return await self._bring(_of_fetched(fetched), entries, fetched.chunks)
            except Refused as refused:
                raise InvalidArgument.field(field, str(refused), ErrorReason.REFERENCE_UNREADABLE) from None
            except Unreachable as problem:
                message = f"could not be fetched: {problem}"
                raise InvalidArgument.field(field, message, ErrorReason.REFERENCE_UNREADABLE) from None

    async def from_data_uri(self, uri: str, entries: Metadata, *, field: str) -> str:
        """Bring in the file that a data URI (RFC 2397) is. Raises InvalidArgument for one that is none."""
        # Of 30 MB that takes a tenth of a second.
        data, content_type = await asyncio.to_thread(_of_data_uri, uri, field)
        return await self.from_bytes(data, entries, field=field, content_type=content_type)

    async def from_bytes(
        self,
        data: bytes,
        entries: Metadata,
        *,
        field: str,
        content_type: str = "",
        filename: str = "",
    ) -> str:
        """Bring in a file that is in memory.

        Raises:
            InvalidArgument: it is empty, or too large.
        """
        if not data or len(data) > self._limits.max_bytes:
            raise InvalidArgument.field(
                field, f"must be a file of 1..{self._limits.max_bytes} bytes, got {len(data)}", ErrorReason.OUT_OF_RANGE
            )
        first = upload_service_pb2.CreateUploadRequest(
            content_type=content_type, filename=filename[:255], size_bytes=len(data)
        )
        return await self._bring(first, entries, _pieces(data))

    @contextmanager
    def _place(self, owner: str) -> Iterator[None]:
        """Take one of the places for fetches, of which one owner has half at most. Raises ResourceExhausted."""
        if self._fetching.total() >= self._limits.at_once or self._fetching[owner] >= max(1, self._limits.at_once // 2):
            raise ResourceExhausted("Too many files are being fetched; repeat.", retry_after=timedelta(seconds=1))
        self._fetching[owner] += 1
        try:
            yield
        finally:
            self._fetching[owner] -= 1
            if not self._fetching[owner]:
                del self._fetching[owner]

    def _check_caller(self, entries: Metadata) -> str:
        """Return whom the calls are for. Raises unless their identity is good, before anything is fetched for it."""
        token = dict(entries).get(AUTHORIZATION, "").removeprefix(_BEARER)
        if not token:
            raise Unauthenticated("The call carries no identity.", ErrorReason.MISSING_IDENTITY)
        caller = self._verifier.verify(token)
        if Scope.USE not in caller.scopes:
            raise PermissionDenied("This identity may not bring files in.")
        return dict(entries).get(ON_BEHALF_OF) or f"{caller.owner.tenant_id}/{caller.owner.owner_id}"

    async def _bring(
        self,
        first: upload_service_pb2.CreateUploadRequest,
        entries: Metadata,
        chunks: AsyncIterator[bytes],
    ) -> str:
        call = self._uploads.CreateUpload(metadata=entries, timeout=self._limits.timeout.total_seconds())
        ending = Ending(call)
        try:
            await _write(call, first, chunks)
            answer = await call
        except grpc.RpcError as error:
            raise of_rpc(ending.of(error)) from error
        finally:
            call.cancel()
        return str(answer.asset.asset_id)


def _of_data_uri(uri: str, field: str) -> tuple[bytes, str]:
    """Return what a data URI holds, and its type in lower case. Raises InvalidArgument."""
    head, comma, text = uri.partition(",")
    if len(head) > _LONGEST_HEAD or text.count("%") > _MOST_ESCAPES:
        raise InvalidArgument.field(field, "is a data URI that is described or escaped at too great a length")
    scheme, _, description = head.partition(":")
    content_type, *parameters = description.split(";")
    if scheme.lower() != "data" or not comma:
        raise InvalidArgument.field(field, "is no data URI: data:image/png;base64,…")
    try:
        data = unquote_to_bytes(text)
        if "base64" in (parameter.strip().lower() for parameter in parameters):
            data = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument.field(field, "is a data URI whose base64 is damaged") from None
    return data, content_type.strip().lower()


def _of_fetched(fetched: Fetched) -> upload_service_pb2.CreateUploadRequest:
    """Return the first message of the upload of a fetched file. Raises Refused for what is said to be a page."""
    said = fetched.content_type
    if said not in _UNSAID_TYPES and not said.startswith(_TYPES):
        raise Refused(f"is answered as {said[:100]}, which is no picture and no video")
    return upload_service_pb2.CreateUploadRequest(size_bytes=fetched.size_bytes or 0)


async def _write(
    call: grpc.aio.StreamUnaryCall[upload_service_pb2.CreateUploadRequest, upload_service_pb2.CreateUploadResponse],
    first: upload_service_pb2.CreateUploadRequest,
    chunks: AsyncIterator[bytes],
) -> None:
    message, total = first, 0
    try:
        async with aclosing(chunks):  # type: ignore[type-var]
            async for chunk in chunks:
                for start in range(0, len(chunk), _PIECE_BYTES):
                    message.data = chunk[start : start + _PIECE_BYTES]
                    await call.write(message)
                    total += len(message.data)
                    message = upload_service_pb2.CreateUploadRequest()
        # A stream that was cut can look like one that has ended: the last message says how long it was.
        await call.write(upload_service_pb2.CreateUploadRequest(size_bytes=total) if total else first)
        await call.done_writing()
    except (asyncio.InvalidStateError, grpc.RpcError):
        # The service has answered already; what it says is read from the call.
        return


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data

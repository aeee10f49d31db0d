"""Files of the client of one request, by the uploads of the asset service: whole or in parts, and never kept here."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from atelier.asset.v1 import upload_service_pb2 as pb
from gateway.dialects.jobs import Calls
from gateway.status import of_rpc
from gateway.streams import Access
from gateway.uploads import UPLOAD_LIMIT, send_file

_UPLOADS = "/atelier.asset.v1.UploadService/"

_Answer = TypeVar("_Answer", bound=Message)


class Uploads:
    """Brings in files of the client of one request."""

    def __init__(self, calls: Calls, access: Access) -> None:
        """Call with the identity that `access` makes."""
        self._calls = calls
        self._access = access

    async def reserve(self, name: str) -> str:
        """Return the id that the asset of a file will have which is brought in by a name, however often it comes."""
        described = pb.DescribeImportRequest(import_key=_import_key(name))
        return (await self._call("DescribeImport", described, pb.DescribeImportResponse)).asset_id

    async def take(self, name: str, content_type: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        """Bring a file in by a name; a repeat changes nothing. A size of 0 and an empty type are not known.

        Raises:
            AtelierError: the file is refused.
        """
        first = pb.CreateUploadRequest(content_type=content_type, size_bytes=size_bytes, import_key=_import_key(name))
        await self._send("CreateUpload", first, chunks)

    async def begin(self, filename: str, content_type: str) -> str:
        """Begin a file of unknown size. Returns the id of the upload, which its asset will have too.

        Raises:
            ResourceExhausted: the owner has too many open ones.
        """
        request = pb.BeginUploadRequest(open_ended=True, filename=filename, content_type=content_type)
        return (await self._call("BeginUpload", request, pb.BeginUploadResponse)).upload.upload_id

    async def received(self, upload_id: str) -> int:
        """Return how many bytes of a file are there. Raises NotFound: it is complete, was given up, or never begun."""
        request = pb.GetUploadRequest(upload_id=upload_id)
        return (await self._call("GetUpload", request, pb.GetUploadResponse)).upload.received_bytes

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes]) -> None:
        """Add bytes at the end of a file, which must be `offset`. What came before a break is kept.

        Raises:
            FailedPrecondition: the file ends elsewhere.
            ResourceExhausted: it gets too large.
        """
        await self._send("AppendUpload", pb.AppendUploadRequest(upload_id=upload_id, offset=offset), chunks)

    async def complete(self, upload_id: str, size_bytes: int) -> None:
        """Make a file an asset; a repeat changes nothing.

        Raises:
            FailedPrecondition: it has another size.
            InvalidArgument: it is no picture and no video that is taken; nothing of it is left.
        """
        request = pb.CompleteUploadRequest(upload_id=upload_id, size_bytes=size_bytes)
        await self._call("CompleteUpload", request, pb.CompleteUploadResponse)

    async def _send(self, name: str, first: Message, chunks: AsyncIterator[bytes]) -> None:
        route = self._calls.route(f"{_UPLOADS}{name}")
        await send_file(self._calls.backends, route, await self._access(), first, chunks)

    async def _call(self, name: str, request: Message, answer: type[_Answer]) -> _Answer:
        route = self._calls.route(f"{_UPLOADS}{name}")
        # To measure a large file takes longer than other calls may.
        limit = UPLOAD_LIMIT if name == "CompleteUpload" else self._calls.limit
        try:
            found = await self._calls.backends.unary(route, request, await self._access(), limit)
        except grpc.RpcError as error:
            raise of_rpc(error) from error
        if not isinstance(found, answer):
            raise TypeError(f"{name} does not answer {answer.DESCRIPTOR.full_name}")
        return found


def _import_key(name: str) -> str:
    return hashlib.sha256(f"atelier.reference/{name}".encode()).hexdigest()

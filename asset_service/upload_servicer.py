"""UploadService: decode, one call, encode; every wait for a client's next message has an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from asset_service.client_uploads import Announced, ClientUploads
from asset_service.domain import Media
from asset_service.handover import Handover
from asset_service.imports import Imports
from asset_service.reference_wire import encoded, handed_over
from asset_service.references import References, granted_reference
from asset_service.resumable_uploads import ResumableUploads
from asset_service.small_outputs import MAX_BYTES, SmallFile, SmallOutput, SmallOutputs, Taken
from asset_service.uploads import Piece, Uploads
from asset_service.wire import Encoder, import_provenance, media, rendition_from, resumable_upload
from atelier.asset.v1 import upload_service_pb2, upload_service_pb2_grpc
from service_kit.capabilities import Capabilities, LeaseClaims, current_lease
from service_kit.errors import AtelierError, DeadlineExceeded, ErrorReason, InvalidArgument
from service_kit.identity import current_caller
from service_kit.interceptors import current_request_id
from service_kit.rpc_errors import to_status
from service_kit.server import Registration
from service_kit.validation import check_limits

Context = grpc.aio.ServicerContext[Any, Any]
MAX_ANSWERED_BYTES = 3 << 20
"""The most bytes of references in one message: a worker takes messages of 4 MiB."""
SILENCE = timedelta(seconds=60)
PATIENCE = timedelta(seconds=2)
_Content = tuple[bytes, str]
"""The bytes of a file, and their digest in hexadecimal where the service has it: of those that are handed over."""
_M = TypeVar("_M", bound=Message)


class UploadServicer(upload_service_pb2_grpc.UploadServiceServicer):
    """How bytes come in."""

    def __init__(
        self,
        uploads: Uploads,
        small_outputs: SmallOutputs,
        client_uploads: ClientUploads,
        resumable_uploads: ResumableUploads,
        imports: Imports,
        references: References,
        encoder: Encoder,
        capabilities: Capabilities,
        handover: Handover,
    ) -> None:
        self._uploads = uploads
        self._small_outputs = small_outputs
        self._client_uploads = client_uploads
        self._resumable_uploads = resumable_uploads
        self._imports = imports
        self._references = references
        self._encoder = encoder
        self._capabilities = capabilities
        self._handover = handover

    @property
    def registration(self) -> Registration:
        """What a server needs to know."""
        return upload_service_pb2_grpc.add_UploadServiceServicer_to_server, self

    async def CreateUpload(
        self, request_iterator: AsyncIterator[upload_service_pb2.CreateUploadRequest], context: Context
    ) -> upload_service_pb2.CreateUploadResponse:
        async with _heard_out(request_iterator) as messages:
            first = await anext(messages, None)
            if first is None:
                raise InvalidArgument("The file is empty.", ErrorReason.UNSUPPORTED_MEDIA)
            announced = Announced(first.filename, first.content_type, first.size_bytes, first.sha256, first.import_key)

            async def pieces() -> AsyncGenerator[tuple[bytes, int]]:
                yield first.data, first.size_bytes
                async for message in messages:
                    yield message.data, message.size_bytes

            async with aclosing(pieces()) as data:
                asset = await self._client_uploads.create(current_caller().owner, announced, data)
        return upload_service_pb2.CreateUploadResponse(asset=self._encoder.asset(asset))

    async def DescribeImport(
        self, request: upload_service_pb2.DescribeImportRequest, context: Context
    ) -> upload_service_pb2.DescribeImportResponse:
        asset_id, asset = await self._imports.describe(
            current_caller().owner, request.import_key, import_provenance(request)
        )
        return upload_service_pb2.DescribeImportResponse(
            asset_id=asset_id, asset=None if asset is None else self._encoder.asset(asset)
        )

    async def BeginUpload(
        self, request: upload_service_pb2.BeginUploadRequest, context: Context
    ) -> upload_service_pb2.BeginUploadResponse:
        announced = Announced(request.filename, request.content_type, request.size_bytes, request.sha256)
        begun = await self._resumable_uploads.begin(current_caller().owner, announced, open_ended=request.open_ended)
        return upload_service_pb2.BeginUploadResponse(upload=resumable_upload(begun))

    async def AppendUpload(
        self, request_iterator: AsyncIterator[upload_service_pb2.AppendUploadRequest], context: Context
    ) -> upload_service_pb2.AppendUploadResponse:
        async with _heard_out(request_iterator) as messages:
            first = await anext(messages, None)
            if first is None:
                raise InvalidArgument.field(
                    "upload_id", "must be in the first message, and there was none", ErrorReason.MISSING_FIELD
                )
            if not first.HasField("offset"):
                raise InvalidArgument.field(
                    "offset", "must be said: it is the received_bytes of the upload", ErrorReason.MISSING_FIELD
                )

            async def pieces() -> AsyncGenerator[bytes]:
                yield first.data
                async for message in messages:
                    yield message.data

            async with aclosing(pieces()) as data:
                reached = await self._resumable_uploads.append(
                    current_caller().owner, first.upload_id, first.offset, data
                )
        return upload_service_pb2.AppendUploadResponse(upload=resumable_upload(reached))

    async def GetUpload(
        self, request: upload_service_pb2.GetUploadRequest, context: Context
    ) -> upload_service_pb2.GetUploadResponse:
        reached = await self._resumable_uploads.get(current_caller().owner, request.upload_id)
        return upload_service_pb2.GetUploadResponse(upload=resumable_upload(reached))

    async def CompleteUpload(
        self, request: upload_service_pb2.CompleteUploadRequest, context: Context
    ) -> upload_service_pb2.CompleteUploadResponse:
        asset = await self._resumable_uploads.complete(
            current_caller().owner, request.upload_id, size_bytes=request.size_bytes, sha256=request.sha256
        )
        return upload_service_pb2.CompleteUploadResponse(asset=self._encoder.asset(asset))

    async def CancelUpload(
        self, request: upload_service_pb2.CancelUploadRequest, context: Context
    ) -> upload_service_pb2.CancelUploadResponse:
        await self._resumable_uploads.cancel(current_caller().owner, request.upload_id)
        return upload_service_pb2.CancelUploadResponse()

    async def UploadOutput(
        self, request: upload_service_pb2.UploadOutputRequest, context: Context
    ) -> upload_service_pb2.UploadOutputResponse:
        for file in request.files:
            _check_in_message(file)
        [answer] = await self._small_outputs.take(
            [_small_output(current_lease(), request, _contents(request, iter(())))]
        )
        if isinstance(answer, Exception):
            raise answer
        return _stored(*answer)

    async def UploadOutputs(
        self, request: upload_service_pb2.UploadOutputsRequest, context: Context
    ) -> upload_service_pb2.UploadOutputsResponse:
        # Those of one lease are all under the same token.
        lease_of = cache(self._capabilities.verify_lease)

        def decoded(one: upload_service_pb2.LeasedOutput, contents: Sequence[_Content]) -> SmallOutput | AtelierError:
            try:
                return _small_output(lease_of(one.lease_token), one.output, contents)
            except AtelierError as error:
                return error

        handed_over = iter(await self._handed_over(request))
        # Each gets its bytes though it be refused: those of the next lie behind them.
        outputs = [decoded(one, _contents(one.output, handed_over)) for one in request.outputs]
        taken = iter(await self._small_outputs.take([one for one in outputs if isinstance(one, SmallOutput)]))
        answers = [_answer(next(taken) if isinstance(one, SmallOutput) else one) for one in outputs]
        return upload_service_pb2.UploadOutputsResponse(answers=answers)

    async def _handed_over(self, request: upload_service_pb2.UploadOutputsRequest) -> Sequence[_Content]:
        """Return the bytes of the files of a message that are handed over beside it."""
        sizes = []
        for file in (file for one in request.outputs for file in one.output.files):
            if request.handover_name and file.handed_over_bytes and not file.data:
                sizes.append(file.handed_over_bytes)
            else:
                _check_in_message(file)
        if sum(sizes) > MAX_BYTES:
            raise InvalidArgument.field(
                "handed_over_bytes",
                f"must be at most {MAX_BYTES} together, got {sum(sizes)}; use fewer outputs, or StartUpload",
                ErrorReason.OUT_OF_RANGE,
            )
        return await self._handover.read(request.handover_name, sizes) if sizes else ()

    async def StartUpload(
        self, request: upload_service_pb2.StartUploadRequest, context: Context
    ) -> upload_service_pb2.StartUploadResponse:
        started = await self._uploads.start(
            current_lease(),
            request.asset_index,
            rendition_from(request.rendition),
            request.size_bytes,
            request.sha256,
            handover=request.handover,
        )
        return upload_service_pb2.StartUploadResponse(
            upload_id=started.upload_id, received_bytes=started.received_bytes, handover_name=started.handover_name
        )

    async def CollectUpload(
        self, request: upload_service_pb2.CollectUploadRequest, context: Context
    ) -> upload_service_pb2.CollectUploadResponse:
        received_bytes = await self._uploads.collect(current_lease(), request.upload_id)
        return upload_service_pb2.CollectUploadResponse(received_bytes=received_bytes)

    async def WriteUpload(
        self, request_iterator: AsyncIterator[upload_service_pb2.WriteUploadRequest], context: Context
    ) -> upload_service_pb2.WriteUploadResponse:
        async with _heard_out(request_iterator) as messages:
            pieces = (Piece(message.upload_id, message.offset, message.data) async for message in messages)
            async with aclosing(pieces):
                received_bytes = await self._uploads.write(current_lease(), pieces)
        return upload_service_pb2.WriteUploadResponse(received_bytes=received_bytes)

    async def FinishUpload(
        self, request: upload_service_pb2.FinishUploadRequest, context: Context
    ) -> upload_service_pb2.FinishUploadResponse:
        receipt, found = await self._uploads.finish(
            current_lease(), request.upload_id, request.rendition_upload_ids, linked=request.linked
        )
        return upload_service_pb2.FinishUploadResponse(receipt=receipt, media=media(found))

    async def ReadReferences(self, request: upload_service_pb2.ReadReferencesRequest, context: Context) -> Any:
        # Those of one lease are all under the same token.
        lease_of = cache(self._capabilities.verify_lease)

        def granted(one: upload_service_pb2.LeasedReference) -> tuple[str, str, str] | None:
            try:
                return granted_reference(lease_of(one.lease_token), one.asset_id)
            except AtelierError:
                return None

        found = await self._references.read_whole([granted(one) for one in request.references], MAX_ANSWERED_BYTES)
        if request.handover_name and await self._references.hand_over_whole(found, request.handover_name):
            return handed_over(found)
        return encoded(found)

    async def ReadReference(
        self, request: upload_service_pb2.ReadReferenceRequest, context: Context
    ) -> AsyncIterator[upload_service_pb2.ReadReferenceResponse]:
        lease = current_lease()
        if request.handover_name:
            sha256 = await self._references.hand_over(lease, request.asset_id, request.handover_name)
            if sha256 is not None:
                yield upload_service_pb2.ReadReferenceResponse(handed_over_sha256=sha256)
                return
        async with aclosing(self._references.read(lease, request.asset_id)) as pieces:
            async for data in pieces:
                yield upload_service_pb2.ReadReferenceResponse(data=data)


def _contents(request: upload_service_pb2.UploadOutputRequest, handed_over: Iterator[_Content]) -> list[_Content]:
    """Return the bytes of the files of an output: from the message, or the next of those that are handed over."""
    return [(file.data, "") if file.data else next(handed_over) for file in request.files]


def _small_output(
    lease: LeaseClaims, request: upload_service_pb2.UploadOutputRequest, contents: Sequence[_Content]
) -> SmallOutput:
    files = []
    for file, (data, digest) in zip(request.files, contents, strict=True):
        sha256 = file.sha256 or digest
        files.append(
            SmallFile(rendition_from(file.rendition), sha256, data, is_checked=bool(digest) and sha256 == digest)
        )
    return SmallOutput(lease, request.asset_index, files)


def _check_in_message(file: upload_service_pb2.OutputFile) -> None:
    """Raise InvalidArgument unless a file is there, with its digest, or is handed over as it should be."""
    if not file.data:
        raise InvalidArgument.field(
            "data",
            "must not be empty, but in UploadOutputs with handover_name and handed_over_bytes",
            ErrorReason.MISSING_FIELD,
        )
    if file.handed_over_bytes:
        raise InvalidArgument.field("handed_over_bytes", f"must be 0 beside data, got {file.handed_over_bytes}")
    if not file.sha256:
        raise InvalidArgument.field(
            "sha256", "must be the digest of data in hexadecimal, got nothing", ErrorReason.MISSING_FIELD
        )


def _stored(receipt: str, found: Media) -> upload_service_pb2.UploadOutputResponse:
    return upload_service_pb2.UploadOutputResponse(receipt=receipt, media=media(found))


def _answer(taken: Taken | Exception) -> upload_service_pb2.OutputAnswer:
    """Return what a worker is told of one output of many. What is no refusal fails the call: raised."""
    if isinstance(taken, AtelierError):
        return upload_service_pb2.OutputAnswer(refused=to_status(taken, current_request_id()))
    if isinstance(taken, Exception):
        raise taken
    return upload_service_pb2.OutputAnswer(stored=_stored(*taken))


@asynccontextmanager
async def _heard_out(messages: AsyncIterator[_M]) -> AsyncIterator[AsyncIterator[_M]]:
    """Give the messages of a client; one that is refused may go on for a moment, and nothing of it is kept.

    A gRPC client that is still sending when the call ends is told INTERNAL by its own library, not why it was refused.
    """
    try:
        async with aclosing(_received(messages)) as received:
            yield received
    except AtelierError:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE.total_seconds()):
                async for _ in messages:
                    continue
        raise


async def _received(messages: AsyncIterator[_M]) -> AsyncGenerator[_M]:
    """Give the messages of a client, each within its limits, as long as the next one comes in time."""
    iterator = aiter(messages)
    while True:
        try:
            async with asyncio.timeout(SILENCE.total_seconds()):
                message = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineExceeded(f"Nothing arrived for {SILENCE.total_seconds():g} s.") from None
        check_limits(message)
        yield message

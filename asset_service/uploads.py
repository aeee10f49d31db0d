"""Outputs of jobs on their way in: resumable, under a lease token, staged until their job is settled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from asset_service.domain import (
    MAX_PIECE_BYTES,
    MAX_UPLOADS_PER_FILE,
    Media,
    RenditionKind,
    Upload,
    UploadState,
)
from asset_service.handover import Handover
from asset_service.intake import Begun, Intake
from asset_service.lease_rules import LeaseRules, check_formats, check_parts, new_upload
from asset_service.locks import UploadLocks
from asset_service.receipts import Receipts
from asset_service.spool import Spool
from asset_service.storage import Storage, Transaction
from service_kit import crash
from service_kit.capabilities import LeaseClaims
from service_kit.errors import (
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from service_kit.finishing import Unbroken


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an upload; the first names the upload."""

    upload_id: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Started:
    """An upload, how many bytes it has, and the file that is offered for them; empty when none is."""

    upload_id: str
    received_bytes: int
    handover_name: str = ""


class Nudge(Protocol):
    """What wakes those who delete bytes."""

    def __call__(self) -> None:
        """Say that there is something to delete."""


class Uploads:
    """Starts, fills and finishes uploads of outputs."""

    def __init__(
        self,
        storage: Storage,
        spool: Spool,
        intake: Intake,
        receipts: Receipts,
        locks: UploadLocks,
        unbroken: Unbroken,
        rules: LeaseRules,
        *,
        nudge: Nudge,
        handover: Handover,
    ) -> None:
        self._storage = storage
        self._spool = spool
        self._intake = intake
        self._receipts = receipts
        self._locks = locks
        self._unbroken = unbroken
        self._rules = rules
        self._nudge = nudge
        self._handover = handover

    async def start(
        self,
        lease: LeaseClaims,
        asset_index: int,
        rendition: RenditionKind | None,
        size_bytes: int,
        sha256: str,
        *,
        handover: bool = False,
    ) -> Started:
        """Begin an upload, or find it again; with `handover` a file is offered for one that has no bytes.

        With an offer it may have no digest. Then its bytes come with `finish`, and what has come of them counts for
        nothing before: each call offers a new file.

        Raises:
            InvalidArgument: outside what the lease grants, or not a digest.
            FailedPrecondition: `already_settled`.
            ResourceExhausted: too many different uploads of this file.
        """
        self._rules.check(lease, asset_index, size_bytes, sha256, linked=handover)
        wanted = new_upload(lease, asset_index, rendition, size_bytes, sha256)
        async with self._storage.write() as tx:
            await tx.keep_open(lease.job_id)
            await tx.erased.refuse(lease.owner)
            upload = await tx.uploads.find_same(wanted) or await self._add(tx, wanted)
        crash.reach("asset.upload.started")
        async with self._locks.hold(upload.upload_id):
            upload = await self._own(lease, upload.upload_id)
            if upload.state is UploadState.STAGED:
                return Started(upload.upload_id, upload.size_bytes)
            received_bytes = await self._spool.open(upload.upload_id) if upload.sha256 else 0
            wants = handover and not received_bytes
            name = await self._handover.offer(upload.upload_id, lease.job_id) if wants else ""
            return Started(upload.upload_id, received_bytes, name)

    async def collect(self, lease: LeaseClaims, upload_id: str) -> int:
        """Take the bytes from the file that was offered for an upload. Returns how many it has.

        Raises:
            NotFound: the lease has no such upload.
            FailedPrecondition: `incomplete_upload`; no file is offered, or it is not whole. Or `already_settled`.
        """
        async with self._locks.hold(upload_id):
            upload = await self._open(lease, upload_id)
            return await self._spool.copy_in(upload_id, self._handover.take(upload_id), upload.size_bytes)

    async def write(self, lease: LeaseClaims, pieces: AsyncIterator[Piece]) -> int:
        """Add pieces to an upload. Returns how many bytes it has; they are on the disk then.

        Raises:
            NotFound: the lease has no such upload.
            FailedPrecondition: `incomplete_upload` for a wrong offset, or `already_settled`.
            ResourceExhausted: more than was announced.
        """
        upload: Upload | None = None
        async for piece in pieces:
            if upload is None:
                upload = await self._open(lease, piece.upload_id)
            elif piece.upload_id not in ("", upload.upload_id):
                raise InvalidArgument.field("upload_id", "must not change within a stream")
            if piece.data:
                await self._write(upload, piece)
        if upload is None:
            raise InvalidArgument.field(
                "upload_id", "must be in the first message, and there was none", ErrorReason.MISSING_FIELD
            )
        async with self._locks.hold(upload.upload_id):
            await self._open(lease, upload.upload_id)
            return await self._spool.sync(upload.upload_id)

    async def finish(
        self, lease: LeaseClaims, upload_id: str, rendition_upload_ids: Sequence[str], *, linked: bool = False
    ) -> tuple[str, Media]:
        """Measure an output and its renditions. Returns the receipt and what the output is.

        With `linked` the output's bytes are copied first, from the link beside the file that was offered.

        Raises:
            NotFound: the lease has no such upload.
            InvalidArgument: `digest_mismatch`, `unsupported_media`, or renditions that are not of this output.
            FailedPrecondition: `incomplete_upload` or `already_settled`.
        """
        return await self._unbroken.run(self._finish(lease, upload_id, tuple(rendition_upload_ids), linked))

    async def _add(self, tx: Transaction, wanted: Upload) -> Upload:
        if await tx.uploads.count_same_file(wanted) >= MAX_UPLOADS_PER_FILE:
            raise ResourceExhausted(
                f"A lease may start at most {MAX_UPLOADS_PER_FILE} different uploads of one file; finish one of them."
            )
        await tx.uploads.add(wanted)
        return wanted

    async def _own(self, lease: LeaseClaims, upload_id: str) -> Upload:
        """Return an upload of this lease that was not given up."""
        async with self._storage.read() as tx:
            await tx.settlements.refuse_settled(lease.job_id)
            upload = await tx.uploads.find(upload_id)
        mine = (lease.job_id, lease.stage, lease.fence, lease.owner)
        if upload is None or (upload.job_id, upload.stage, upload.fence, upload.owner) != mine:
            raise NotFound.of("upload", upload_id)
        if upload.state is UploadState.DELETING:
            raise FailedPrecondition("The upload was given up: start it again.", ErrorReason.INCOMPLETE_UPLOAD)
        return upload

    async def _open(self, lease: LeaseClaims, upload_id: str) -> Upload:
        upload = await self._own(lease, upload_id)
        if upload.state is not UploadState.OPEN:
            raise FailedPrecondition(
                f"The upload is finished: it has all its {upload.size_bytes} bytes.", ErrorReason.INCOMPLETE_UPLOAD
            )
        if not upload.sha256:
            raise FailedPrecondition(
                "The upload has no digest, so its bytes come as a link; start it with its digest to send them.",
                ErrorReason.INCOMPLETE_UPLOAD,
            )
        return upload

    async def _write(self, upload: Upload, piece: Piece) -> None:
        if len(piece.data) > MAX_PIECE_BYTES:
            raise InvalidArgument.field(
                "data", f"must be at most {MAX_PIECE_BYTES} bytes, got {len(piece.data)}", ErrorReason.OUT_OF_RANGE
            )
        if piece.offset + len(piece.data) > upload.size_bytes:
            raise ResourceExhausted(
                f"{upload.size_bytes} bytes were announced, and this would be {piece.offset + len(piece.data)}.",
                ErrorReason.BODY_TOO_LARGE,
            )
        async with self._locks.hold(upload.upload_id):
            # What lies in a file that was offered and not taken would need the room twice.
            await self._handover.end(upload.upload_id)
            await self._spool.write(upload.upload_id, piece.offset, piece.data)

    async def _finish(
        self, lease: LeaseClaims, upload_id: str, rendition_upload_ids: tuple[str, ...], linked: bool
    ) -> tuple[str, Media]:
        ids = (upload_id, *rendition_upload_ids)
        async with AsyncExitStack() as locks:
            # Sorted, so that two calls that name the same uploads never wait for each other.
            for name in sorted(set(ids)):
                await locks.enter_async_context(self._locks.hold(name))
            found = [await self._own(lease, name) for name in ids]
            output, renditions = found[0], found[1:]
            check_parts(output, renditions)
            if output.receipt is not None and output.media is not None:
                async with self._storage.read() as tx:
                    await check_same_renditions(tx, output, rendition_upload_ids)
                return output.receipt, output.media
            media, generations = await self._checked_and_written(lease, found, linked)
            receipt, staged = await self._stage(found, media, generations)
            for name in ids:
                await self._spool.remove(name)
        return receipt, staged

    async def _checked_and_written(
        self, lease: LeaseClaims, found: Sequence[Upload], linked: bool
    ) -> tuple[Sequence[Media], Sequence[str]]:
        """Make blobs of an output and its renditions. Returns what they are, and their generations."""
        begins = [partial(self._begin, upload, linked and upload is found[0]) for upload in found]
        return await self._intake.write_checked(begins, partial(self._checked, lease))

    async def _begin(self, upload: Upload, linked: bool) -> Begun:
        if linked == bool(upload.sha256):
            raise FailedPrecondition(
                "The bytes of an upload without a digest come as a link, and of no other.",
                ErrorReason.INCOMPLETE_UPLOAD,
            )
        if linked:
            return await self._intake.take(upload, self._handover.take_link(upload.upload_id))
        return await self._intake.begin(upload)

    async def _checked(self, lease: LeaseClaims, begun: Sequence[Begun]) -> Sequence[Media]:
        """Wait for what files are. Of one that can never be taken nothing is left, without waiting for a settlement."""
        media = []
        for one in begun:
            try:
                media.append(await one.media)
            except InvalidArgument as error:
                # Bytes that were changed on their way may be sent again.
                if error.reason is not ErrorReason.DIGEST_MISMATCH:
                    async with self._storage.write() as tx:
                        await tx.uploads.delete_later(one.upload.upload_id)
                    self._nudge()
                raise
        check_formats(lease, [one.upload for one in begun], media)
        return media

    async def _stage(
        self, found: Sequence[Upload], media: Sequence[Media], generations: Sequence[str]
    ) -> tuple[str, Media]:
        # The rows keep what was announced: perhaps no digest.
        staged = [
            replace(upload, state=UploadState.STAGED, media=measured, generation=generation)
            for upload, measured, generation in zip(found, media, generations, strict=True)
        ]
        crash.reach("asset.upload.finished.blob")
        receipt = self._receipts.sign(staged[0], staged[1:])
        output = replace(staged[0], receipt=receipt)
        renditions = [replace(upload, output_upload_id=output.upload_id) for upload in staged[1:]]
        try:
            async with self._storage.write() as tx:
                await tx.keep_open(output.job_id or "")
                for upload in (output, *renditions):
                    if not await tx.uploads.stage(upload):
                        raise FailedPrecondition("The upload was given up.", ErrorReason.INCOMPLETE_UPLOAD)
        except FailedPrecondition:
            self._nudge()
            raise
        crash.reach("asset.upload.finished")
        return receipt, media[0]


async def check_same_renditions(tx: Transaction, output: Upload, rendition_upload_ids: Sequence[str]) -> None:
    """Refuse to answer with the receipt of an output that was finished with other renditions."""
    known = {upload.upload_id for upload in await tx.uploads.renditions_of(output)}
    if known != set(rendition_upload_ids):
        raise InvalidArgument.field(
            "rendition_upload_ids",
            "must be those with which the output was finished",
            ErrorReason.CONFLICTING_FIELDS,
        )

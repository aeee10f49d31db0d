"""Outputs that come whole in one message: what uploads do in many steps, for many outputs in one transaction.

An output is a row before its first byte, and staged by a second transaction when its bytes are there. Each of the two
does in one go whatever outputs came while the one before it ran; the files are measured in batches as well. They are
measured while rows and bytes are written: what is refused leaves again, and nobody has seen it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from asset_service.domain import MAX_UPLOADS_PER_FILE, Media, RenditionKind, Upload, UploadState
from asset_service.intake import Intake
from asset_service.lease_rules import LeaseRules, check_formats, check_parts, new_upload
from asset_service.locks import UploadLocks
from asset_service.media import HEAD_BYTES, sniff
from asset_service.probing import Probe
from asset_service.receipts import Receipts
from asset_service.shape_domain import Shape
from asset_service.spool import Spool
from asset_service.storage import Storage, Transaction
from asset_service.uploads import Nudge, check_same_renditions
from service_kit import crash
from service_kit.batching import Batcher
from service_kit.capabilities import LeaseClaims
from service_kit.erasure import owner_erased
from service_kit.errors import (
    AtelierError,
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from service_kit.finishing import Unbroken, all_to_their_ends

MAX_BYTES = 8 << 20
"""The most bytes of an output and its renditions in one message."""

MAX_UNDER_WAY_BYTES = 256 << 20
"""The most bytes that wait in memory to be written."""

_MEASURED_AT_ONCE = 32
_IN_THE_LOOP_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class SmallFile:
    """One file of an output; without a rendition the output itself."""

    rendition: RenditionKind | None
    sha256: str
    data: bytes


class SmallOutputs:
    """Takes outputs whole."""

    def __init__(
        self,
        storage: Storage,
        intake: Intake,
        probe: Probe,
        spool: Spool,
        receipts: Receipts,
        locks: UploadLocks,
        unbroken: Unbroken,
        rules: LeaseRules,
        *,
        nudge: Nudge,
    ) -> None:
        self._storage = storage
        self._intake = intake
        self._spool = spool
        self._receipts = receipts
        self._locks = locks
        self._unbroken = unbroken
        self._rules = rules
        self._nudge = nudge
        self._under_way_bytes = 0
        self._begin = Batcher("asset.begin_outputs", self._begin_all)
        self._probe = probe
        self._measure = Batcher("asset.measure_outputs", self._measure_all, most=_MEASURED_AT_ONCE)
        self._stage = Batcher("asset.stage_outputs", self._stage_all)

    async def close(self) -> None:
        """Let what has begun end; refuse what comes."""
        for batcher in (self._begin, self._measure, self._stage):
            await batcher.close()

    async def take(self, lease: LeaseClaims, asset_index: int, files: Sequence[SmallFile]) -> tuple[str, Media]:
        """Store an output and its renditions. Returns the receipt and what the output is; a repeat gets the same.

        Raises:
            InvalidArgument: outside what the lease grants, `digest_mismatch`, `unsupported_media`, or renditions that
                are not those with which the output was stored.
            FailedPrecondition: `already_settled`.
            ResourceExhausted: too many different uploads of one file, or too much under way.
        """
        wanted = [new_upload(lease, asset_index, file.rendition, len(file.data), file.sha256) for file in files]
        # The output itself comes first, as a receipt has it.
        ordered = sorted(zip(wanted, files, strict=True), key=lambda pair: pair[0].rendition is not None)
        check_parts(ordered[0][0], [upload for upload, _ in ordered[1:]])
        with ExitStack() as room:
            room.enter_context(self._room_for(sum(len(file.data) for file in files)))
            for _, file in ordered:
                self._rules.check(lease, asset_index, len(file.data), file.sha256)
                if len(file.data) <= _IN_THE_LOOP_BYTES:
                    _check_digest(file)
            storing = self._unbroken.begin(self._store(lease, ordered))
            # The bytes are in memory until then, though whoever sent them may have gone.
            taken = room.pop_all()
            storing.add_done_callback(lambda _: taken.close())
        return await self._unbroken.result_of(storing)

    @contextmanager
    def _room_for(self, size_bytes: int) -> Iterator[None]:
        if size_bytes > MAX_BYTES:
            raise InvalidArgument.field(
                "files",
                f"must have at most {MAX_BYTES} bytes together, got {size_bytes}; use StartUpload",
                ErrorReason.OUT_OF_RANGE,
            )
        if self._under_way_bytes + size_bytes > MAX_UNDER_WAY_BYTES:
            raise ResourceExhausted(
                f"{MAX_UNDER_WAY_BYTES} bytes of outputs wait to be written already; repeat in a moment.",
                retry_after=timedelta(seconds=1),
            )
        self._under_way_bytes += size_bytes
        try:
            yield
        finally:
            self._under_way_bytes -= size_bytes

    async def _store(self, lease: LeaseClaims, files: Sequence[tuple[Upload, SmallFile]]) -> tuple[str, Media]:
        measuring = asyncio.gather(*(self._measure.submit(file.data) for _, file in files))
        checking = asyncio.gather(_check_large(file for _, file in files))
        try:
            return await self._store_checked(lease, files, checking, measuring)
        finally:
            checking.cancel()
            measuring.cancel()
            await asyncio.gather(checking, measuring, return_exceptions=True)

    async def _store_checked(
        self,
        lease: LeaseClaims,
        files: Sequence[tuple[Upload, SmallFile]],
        checking: Awaitable[object],
        measuring: Awaitable[Sequence[Shape]],
    ) -> tuple[str, Media]:
        async with self._begun(lease, [upload for upload, _ in files]) as (uploads, known):
            output = uploads[0]
            if output.receipt is not None and output.media is not None:
                async with self._storage.read() as tx:
                    await check_same_renditions(tx, output, [upload.upload_id for upload in uploads[1:]])
                return output.receipt, output.media
            check_parts(output, uploads[1:])
            await checking
            types = [sniff(file.data[:HEAD_BYTES]) for _, file in files]
            generations = await all_to_their_ends(
                self._intake.publish(upload, content_type, file.data)
                for upload, content_type, (_, file) in zip(uploads, types, files, strict=True)
            )
            try:
                media = _media(lease, uploads, await measuring)
            except AtelierError:
                await all_to_their_ends(map(self._intake.take_back, uploads, generations))
                raise
            crash.reach("asset.upload.finished.blob")
            staged = [
                replace(upload, state=UploadState.STAGED, media=found, generation=generation)
                for upload, found, generation in zip(uploads, media, generations, strict=True)
            ]
            receipt = self._receipts.sign(staged[0], staged[1:])
            rest = [replace(upload, output_upload_id=output.upload_id) for upload in staged[1:]]
            try:
                await self._stage.submit([replace(staged[0], receipt=receipt), *rest])
            except FailedPrecondition:
                self._nudge()
                raise
            for name in known:
                await self._spool.remove(name)
        crash.reach("asset.upload.finished")
        return receipt, media[0]

    @asynccontextmanager
    async def _begun(
        self, lease: LeaseClaims, wanted: Sequence[Upload]
    ) -> AsyncIterator[tuple[Sequence[Upload], Sequence[str]]]:
        """Give the rows of uploads, new or found again, with their locks; and which of them were found again."""
        async with AsyncExitStack() as locks:
            # Before the rows: from their first moment on nobody deletes what is being written. New ids are free.
            for upload in wanted:
                await locks.enter_async_context(self._locks.hold(upload.upload_id))
            found = await self._begin.submit(wanted)
            crash.reach("asset.upload.started")
            for upload in found:
                if (upload.stage, upload.owner) != (lease.stage, lease.owner):
                    raise NotFound.of("upload", upload.upload_id)
            known = sorted({upload.upload_id for upload in found} - {upload.upload_id for upload in wanted})
            if known:
                for name in known:
                    await locks.enter_async_context(self._locks.hold(name))
                # They may have been finished, or given up, while we waited.
                async with self._storage.read() as tx:
                    await tx.settlements.refuse_settled(lease.job_id)
                    again = {upload.upload_id: upload for upload in await tx.uploads.of_outputs([found[0].asset_id])}
                found = [again.get(upload.upload_id, upload) for upload in found]
            yield found, known

    async def _measure_all(self, files: Sequence[bytes]) -> list[Shape | AtelierError]:
        return await self._probe.measure_bytes(files)

    async def _begin_all(self, batch: Sequence[Sequence[Upload]]) -> list[list[Upload] | AtelierError]:
        """Find or insert the rows of outputs. Returns them for each, or why it gets none."""
        async with self._storage.write() as tx:
            jobs = await _open_jobs(tx, batch)
            erased = await tx.erased.among({uploads[0].owner for uploads in batch})
            rows = await tx.uploads.of_outputs(sorted({upload.asset_id for uploads in batch for upload in uploads}))
            known = {_same(upload): upload for upload in rows}
            counts = Counter(_file(upload) for upload in rows)
            answers: list[list[Upload] | AtelierError] = []
            new: list[Upload] = []
            for uploads in batch:
                if uploads[0].job_id not in jobs:
                    answers.append(_settled())
                    continue
                if uploads[0].owner in erased:
                    answers.append(owner_erased())
                    continue
                missing = [upload for upload in uploads if _same(upload) not in known]
                if any(counts[_file(upload)] >= MAX_UPLOADS_PER_FILE for upload in missing):
                    answers.append(_too_many())
                    continue
                for upload in missing:
                    known[_same(upload)] = upload
                    counts[_file(upload)] += 1
                new += missing
                answers.append([known[_same(upload)] for upload in uploads])
            await tx.uploads.add_many(new)
        return answers

    async def _stage_all(self, batch: Sequence[Sequence[Upload]]) -> list[bool | AtelierError]:
        """Write what was measured of outputs whose jobs are open still."""
        async with self._storage.write() as tx:
            jobs = await _open_jobs(tx, batch)
            open_ids = await tx.uploads.open_among([upload.upload_id for uploads in batch for upload in uploads])
            answers: list[bool | AtelierError] = []
            staged: list[Upload] = []
            for uploads in batch:
                if uploads[0].job_id not in jobs:
                    answers.append(_settled())
                elif any(upload.upload_id not in open_ids for upload in uploads):
                    answers.append(FailedPrecondition("The upload was given up.", ErrorReason.INCOMPLETE_UPLOAD))
                else:
                    staged += uploads
                    answers.append(True)
            if staged:
                await tx.uploads.stage_many(staged)
        return answers


async def _open_jobs(tx: Transaction, batch: Sequence[Sequence[Upload]]) -> set[str]:
    """Lock the jobs of outputs, and return those that are not settled."""
    jobs = {upload.job_id for uploads in batch for upload in uploads if upload.job_id is not None}
    return jobs - (await tx.settled_among(jobs)).keys()


def _media(lease: LeaseClaims, uploads: Sequence[Upload], shapes: Sequence[Shape]) -> Sequence[Media]:
    media = [Media.of(shape, upload.size_bytes, upload.sha256) for upload, shape in zip(uploads, shapes, strict=True)]
    check_formats(lease, uploads, media)
    return media


async def _check_large(files: Iterable[SmallFile]) -> None:
    for file in files:
        if len(file.data) > _IN_THE_LOOP_BYTES:
            await asyncio.to_thread(_check_digest, file)


def _check_digest(file: SmallFile) -> None:
    found = hashlib.sha256(file.data).hexdigest()
    if found != file.sha256:
        raise InvalidArgument(
            f"The bytes have the SHA-256 {found}, and {file.sha256} was announced; send them again.",
            ErrorReason.DIGEST_MISMATCH,
        )


def _same(upload: Upload) -> tuple[object, ...]:
    """Return what two uploads of the same bytes for the same file have in common."""
    return (*_file(upload), upload.sha256, upload.size_bytes)


def _file(upload: Upload) -> tuple[object, ...]:
    return upload.job_id, upload.fence, upload.asset_index, upload.rendition


def _settled() -> FailedPrecondition:
    return FailedPrecondition(
        "The job has been settled: it accepts no further upload and no hold.", ErrorReason.ALREADY_SETTLED
    )


def _too_many() -> ResourceExhausted:
    return ResourceExhausted(
        f"A lease may start at most {MAX_UPLOADS_PER_FILE} different uploads of one file; finish one of them."
    )

"""Outputs that come whole in messages: what uploads do in many steps, for all outputs of a message at once.

An output is a row before its first byte, and staged by a second transaction when its bytes are there. Those of one
message do each step together, and each of the transactions does in one go whatever came while the one before it ran.
They are measured while rows and bytes are written, and named after: of what is refused nothing was ever there.
"""

from __future__ import annotations

import asyncio
import hashlib
import operator
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice

from asset_service.domain import Media, RenditionKind, Upload, UploadState
from asset_service.intake import Intake, MemoryFile, PublishAll
from asset_service.lease_rules import LeaseRules, check_formats, check_parts, new_upload
from asset_service.locks import UploadLocks
from asset_service.media import HEAD_BYTES, sniff
from asset_service.output_batches import OutputBatches
from asset_service.probing import Probe
from asset_service.receipts import Receipts
from asset_service.shape_domain import Shape
from asset_service.spool import Spool
from asset_service.storage import Storage
from asset_service.uploads import Nudge, check_same_renditions
from service_kit import crash
from service_kit.capabilities import LeaseClaims
from service_kit.errors import (
    AtelierError,
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from service_kit.finishing import Unbroken, all_to_their_ends, to_the_end

MAX_BYTES = 8 << 20
"""The most bytes of an output and its renditions in one message."""

MAX_UNDER_WAY_BYTES = 256 << 20
"""The most bytes that wait in memory to be written."""

_IN_THE_LOOP_BYTES = 256 << 10

Taken = tuple[str, Media]
"""The receipt of an output, and what the output is."""


@dataclass(frozen=True, slots=True)
class SmallFile:
    """One file of an output; without a rendition the output itself. `is_checked`: the bytes have that digest."""

    rendition: RenditionKind | None
    sha256: str
    data: bytes
    is_checked: bool = False


@dataclass(frozen=True, slots=True)
class SmallOutput:
    """An output with its renditions, and the lease under which it comes."""

    lease: LeaseClaims
    asset_index: int
    files: Sequence[SmallFile]


@dataclass(slots=True)
class _Taking:
    """An output on its way: what is known of each of its files, the output itself first; and what became of it."""

    lease: LeaseClaims
    uploads: Sequence[Upload]
    data: Sequence[bytes]
    unchecked: Sequence[tuple[str, bytes]]
    types: Sequence[str] | AtelierError
    shapes: Sequence[Shape | AtelierError] = ()
    media: Sequence[Media] = ()
    answer: Taken | Exception | None = None

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.data))

    @property
    def files(self) -> Sequence[MemoryFile]:
        """Return its files as the intake takes them; none if one is nothing that is known."""
        return (
            [] if isinstance(self.types, AtelierError) else list(zip(self.uploads, self.types, self.data, strict=True))
        )


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
        self._batches = OutputBatches(storage, probe)

    async def close(self) -> None:
        """Let what has begun end; refuse what comes."""
        await self._batches.close()

    async def take(self, outputs: Sequence[SmallOutput]) -> list[Taken | Exception]:
        """Store outputs with their renditions. Returns for each its receipt and what it is; a repeat gets the same.

        Or why it is not stored: InvalidArgument when it is outside what the lease grants, `digest_mismatch`,
        `unsupported_media`, or has renditions that are not those with which it was stored; FailedPrecondition,
        `already_settled`; ResourceExhausted for too many different uploads of one file, or too much under way.
        """
        takings = [self._taking(output) for output in outputs]
        with ExitStack() as room:
            for taking in takings:
                try:
                    if taking.answer is None:
                        room.enter_context(self._room_for(taking.size_bytes))
                except AtelierError as error:
                    taking.answer = error
            storing = self._unbroken.begin(self._store(takings))
            # The bytes are in memory until then, though whoever sent them may have gone.
            taken = room.pop_all()
            storing.add_done_callback(lambda _: taken.close())
        await self._unbroken.result_of(storing)
        return [_answer_of(taking) for taking in takings]

    def _taking(self, output: SmallOutput) -> _Taking:
        """Return an output that is within what its lease grants, or has been answered why it is not."""
        lease, index = output.lease, output.asset_index
        wanted = [new_upload(lease, index, file.rendition, len(file.data), file.sha256) for file in output.files]
        # The output itself comes first, as a receipt has it.
        ordered = sorted(zip(wanted, output.files, strict=True), key=lambda pair: pair[0].rendition is not None)
        data = [file.data for _, file in ordered]
        unchecked = [(file.sha256, file.data) for file in output.files if not file.is_checked]
        taking = _Taking(lease, [upload for upload, _ in ordered], data, unchecked, _types(data))
        try:
            check_parts(taking.uploads[0], taking.uploads[1:])
            if taking.size_bytes > MAX_BYTES:
                raise InvalidArgument.field(
                    "files",
                    f"must have at most {MAX_BYTES} bytes together, got {taking.size_bytes}; use StartUpload",
                    ErrorReason.OUT_OF_RANGE,
                )
            for upload in taking.uploads:
                self._rules.check(lease, index, upload.size_bytes, upload.sha256)
        except AtelierError as error:
            taking.answer = error
        return taking

    @contextmanager
    def _room_for(self, size_bytes: int) -> Iterator[None]:
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

    async def _store(self, takings: Sequence[_Taking]) -> None:
        left = _unanswered(takings)
        if not left:
            return
        measuring = asyncio.create_task(self._measure(left), name="asset.measure")
        try:
            known = await self._store_new(left, measuring)
            # Beside each other: one that somebody else keeps has the others not wait, and they share transactions.
            await all_to_their_ends(self._store_again(taking, measuring) for taking in known)
        except AtelierError as error:
            for taking in _unanswered(left):
                taking.answer = error
        finally:
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)

    async def _measure(self, takings: Sequence[_Taking]) -> None:
        files = [data for taking in takings for data in taking.data]
        try:
            shapes = iter(await self._batches.measure(files))
        except AtelierError as error:
            shapes = iter([error] * len(files))
        for taking in takings:
            taking.shapes = list(islice(shapes, len(taking.data)))

    async def _store_new(self, takings: Sequence[_Taking], measuring: Awaitable[None]) -> Sequence[_Taking]:
        """Store outputs, but for those of which something is known already: these are returned."""
        new: list[_Taking] = []
        known: list[_Taking] = []
        # Before the rows: from their first moment on nobody deletes what is being written. New ids are free.
        async with (
            self._locks.hold_all(upload.upload_id for taking in takings for upload in taking.uploads),
            # Bytes may be on the disk before the rows are: they have no name until then.
            self._intake.begin_all([file for taking in takings for file in taking.files]) as publish,
        ):
            # Digests take a thread as long as rows take the disk.
            checking = asyncio.create_task(_check_digests(takings), name="asset.check_digests")
            try:
                begun = await self._batches.begin([taking.uploads for taking in takings])
            finally:
                # Also when this is broken off: a thread has the bytes. What could not be checked is not taken.
                await to_the_end(checking)
            crash.reach("asset.upload.started")
            for taking, uploads in zip(takings, begun, strict=True):
                if taking.answer is not None:
                    continue
                if isinstance(uploads, AtelierError):
                    taking.answer = uploads
                elif all(map(operator.is_, uploads, taking.uploads)):
                    new.append(taking)
                else:
                    known.append(taking)
            await self._write(new, measuring, publish)
        return known

    async def _store_again(self, taking: _Taking, measuring: Awaitable[None]) -> None:
        """Store an output that an earlier message has begun, or another one that is under way."""
        try:
            [found] = await self._batches.begin([taking.uploads])
            if isinstance(found, AtelierError):
                raise found
            for upload in found:
                if (upload.stage, upload.owner) != (taking.lease.stage, taking.lease.owner):
                    raise NotFound.of("upload", upload.upload_id)
            async with self._locks.hold_all(upload.upload_id for upload in found):
                # They may have been finished, or given up, while we waited.
                async with self._storage.read() as tx:
                    await tx.settlements.refuse_settled(taking.lease.job_id)
                    again = {upload.upload_id: upload for upload in await tx.uploads.of_outputs([found[0].asset_id])}
                    output, *rest = [again.get(upload.upload_id, upload) for upload in found]
                    if output.receipt is not None and output.media is not None:
                        await check_same_renditions(tx, output, [upload.upload_id for upload in rest])
                        taking.answer = output.receipt, output.media
                        return
                check_parts(output, rest)
                taking.uploads = [output, *rest]
                await self._write([taking], measuring, self._intake.publish_all)
                if not isinstance(taking.answer, Exception):
                    for upload in taking.uploads:
                        await self._spool.remove(upload.upload_id)
        except AtelierError as error:
            taking.answer = error

    async def _write(self, takings: Sequence[_Taking], measuring: Awaitable[None], publish: PublishAll) -> None:
        """Write the blobs of outputs whose locks the caller has and that are what they should be, and stage them."""
        for taking in takings:
            if isinstance(taking.types, AtelierError):
                taking.answer = taking.types
        if not _unanswered(takings):
            # Nothing is new: a repeat does not wait for what its bytes are.
            return
        await measuring
        for taking in _unanswered(takings):
            try:
                taking.media = _checked_media(taking)
            except AtelierError as error:
                taking.answer = error
        right = _unanswered(takings)
        generations = iter(await publish([file for taking in right for file in taking.files]) if right else ())
        written: list[tuple[_Taking, Sequence[Upload]]] = []
        for taking in right:
            found = list(islice(generations, len(taking.uploads)))
            if failed := [outcome for outcome in found if isinstance(outcome, Exception)]:
                taking.answer = failed[0]
            else:
                known = [generation for generation in found if isinstance(generation, str)]
                written.append((taking, self._staged(taking, known)))
        crash.reach("asset.upload.finished.blob")
        if written:
            await self._stage(written)

    def _staged(self, taking: _Taking, generations: Sequence[str]) -> Sequence[Upload]:
        """Return the uploads of an output as they are to be staged, with its receipt."""
        output, *rest = [
            replace(upload, state=UploadState.STAGED, media=found, generation=generation)
            for upload, found, generation in zip(taking.uploads, taking.media, generations, strict=True)
        ]
        receipt = self._receipts.sign(output, rest)
        return [
            replace(output, receipt=receipt),
            *(replace(upload, output_upload_id=output.upload_id) for upload in rest),
        ]

    async def _stage(self, written: Sequence[tuple[_Taking, Sequence[Upload]]]) -> None:
        answers = await self._batches.stage([uploads for _, uploads in written])
        for (taking, (output, *_)), answer in zip(written, answers, strict=True):
            if isinstance(answer, AtelierError):
                taking.answer = answer
            elif output.receipt is not None and output.media is not None:
                taking.answer = output.receipt, output.media
        if any(isinstance(answer, FailedPrecondition) for answer in answers):
            self._nudge()
        crash.reach("asset.upload.finished")


def _unanswered(takings: Iterable[_Taking]) -> list[_Taking]:
    return [taking for taking in takings if taking.answer is None]


def _answer_of(taking: _Taking) -> Taken | Exception:
    if taking.answer is None:
        raise RuntimeError("an output was left without an answer")
    return taking.answer


def _types(data: Sequence[bytes]) -> Sequence[str] | AtelierError:
    """Return what files say that they are, or why one is nothing that is known."""
    try:
        return [sniff(content[:HEAD_BYTES]) for content in data]
    except AtelierError as error:
        return error


def _checked_media(taking: _Taking) -> Sequence[Media]:
    """Return what the files of an output are. Raises why it is refused."""
    media = [
        Media.of(_shape(shape), upload.size_bytes, upload.sha256)
        for upload, shape in zip(taking.uploads, taking.shapes, strict=True)
    ]
    check_formats(taking.lease, taking.uploads, media)
    return media


def _shape(found: Shape | AtelierError) -> Shape:
    if isinstance(found, AtelierError):
        raise found
    return found


async def _check_digests(takings: Sequence[_Taking]) -> None:
    """Refuse outputs whose bytes are not those that were announced."""
    if sum(len(data) for taking in takings for _, data in taking.unchecked) > _IN_THE_LOOP_BYTES:
        await asyncio.to_thread(_check_each, takings)
    else:
        _check_each(takings)


def _check_each(takings: Iterable[_Taking]) -> None:
    for taking in takings:
        for announced, data in taking.unchecked:
            found = hashlib.sha256(data).hexdigest()
            if found != announced:
                taking.answer = InvalidArgument(
                    f"The bytes have the SHA-256 {found}, and {announced} was announced; send them again.",
                    ErrorReason.DIGEST_MISMATCH,
                )
                break

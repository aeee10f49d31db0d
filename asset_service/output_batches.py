"""What small outputs of several messages do at once: a transaction or a request to the decoder for all that came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TypeVar

from asset_service.domain import MAX_UPLOADS_PER_FILE, Upload
from asset_service.probing import Probe
from asset_service.shape_domain import Shape
from asset_service.storage import Storage, Transaction
from service_kit.batching import Batcher
from service_kit.erasure import owner_erased
from service_kit.errors import AtelierError, ErrorReason, FailedPrecondition, InvalidArgument, ResourceExhausted

_WRITTEN_AT_ONCE = 32
_MESSAGES_MEASURED = 4
_FILES_MEASURED = 32
"""How many files are measured with one request: they share the time that one may take."""
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class OutputBatches:
    """Takes what belongs to one message, and does it with what came from others while the last batch ran."""

    def __init__(self, storage: Storage, probe: Probe) -> None:
        self._storage = storage
        self._probe = probe
        self._begin = Batcher("asset.begin_outputs", _by_message(self._begin_all), most=_WRITTEN_AT_ONCE)
        self._measure = Batcher("asset.measure_outputs", _by_message(self._measure_all), most=_MESSAGES_MEASURED)
        self._stage = Batcher("asset.stage_outputs", _by_message(self._stage_all), most=_WRITTEN_AT_ONCE)

    async def close(self) -> None:
        """Let what has begun end; refuse what comes."""
        for batcher in (self._begin, self._measure, self._stage):
            await batcher.close()

    async def begin(self, outputs: Sequence[Sequence[Upload]]) -> Sequence[Sequence[Upload] | AtelierError]:
        """Find or insert the rows of outputs, of which each is one of its files. Returns them, or why it gets none.

        An upload that was inserted is the very object that was given.
        """
        return await self._begin.submit(outputs)

    async def measure(self, files: Sequence[bytes]) -> Sequence[Shape | AtelierError]:
        """Return what files are, or why one is refused.

        Raises:
            Unavailable: nothing can be measured now.
        """
        return await self._measure.submit(files)

    async def stage(self, outputs: Sequence[Sequence[Upload]]) -> Sequence[bool | AtelierError]:
        """Write what was measured of outputs whose jobs are open still. Returns why one is not, or True."""
        return await self._stage.submit(outputs)

    async def _measure_all(self, files: Sequence[bytes]) -> Sequence[Shape | AtelierError]:
        answers: list[Shape | AtelierError] = []
        for start in range(0, len(files), _FILES_MEASURED):
            answers += await self._measure_some(files[start : start + _FILES_MEASURED])
        return answers

    async def _measure_some(self, files: Sequence[bytes]) -> Sequence[Shape | AtelierError]:
        try:
            return await self._probe.measure_bytes(files)
        except InvalidArgument as error:
            if len(files) == 1:
                return [error]
        # One of them kills its decoder, or takes too long.
        return [answer for data in files for answer in await self._measure_some([data])]

    async def _begin_all(self, batch: Sequence[Sequence[Upload]]) -> Sequence[Sequence[Upload] | AtelierError]:
        async def begin(tx: Transaction) -> Sequence[Sequence[Upload] | AtelierError]:
            jobs = await _open_jobs(tx, batch)
            erased = await tx.erased.among({uploads[0].owner for uploads in batch})
            rows = await tx.uploads.of_outputs(sorted({upload.asset_id for uploads in batch for upload in uploads}))
            known = {_same(upload): upload for upload in rows}
            counts = Counter(_file(upload) for upload in rows)
            answers: list[Sequence[Upload] | AtelierError] = []
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

        return await self._storage.write_at_once(begin)

    async def _stage_all(self, batch: Sequence[Sequence[Upload]]) -> Sequence[bool | AtelierError]:
        async def stage(tx: Transaction) -> Sequence[bool | AtelierError]:
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

        return await self._storage.write_at_once(stage)


def _by_message(
    run: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]],
) -> Callable[[Sequence[Sequence[_Item]]], Awaitable[Sequence[Sequence[_Answer]]]]:
    """Return what does for the items of several messages what `run` does for items, and gives each its own."""

    async def run_all(messages: Sequence[Sequence[_Item]]) -> Sequence[Sequence[_Answer]]:
        answers = iter(await run([item for message in messages for item in message]))
        return [list(islice(answers, len(message))) for message in messages]

    return run_all


async def _open_jobs(tx: Transaction, batch: Sequence[Sequence[Upload]]) -> set[str]:
    """Lock the jobs of outputs, and return those that are not settled."""
    jobs = {upload.job_id for uploads in batch for upload in uploads if upload.job_id is not None}
    return jobs - (await tx.settled_among(jobs)).keys()


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

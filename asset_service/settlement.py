"""Settlements: how jobs ended, carried out once and answered the same ever after."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from asset_service.domain import Asset, EventKind, Settlement, Upload, UploadState, job_holder, published_asset
from asset_service.receipts import Receipts
from asset_service.removal import Removal
from asset_service.storage import Storage, Transaction
from asset_service.watch import Watchers
from service_kit import crash
from service_kit.blobs import WORKSPACE_BUCKET, BlobStore, UnreadableBlob
from service_kit.erasure import owner_erased
from service_kit.errors import AtelierError, Internal, Unavailable
from service_kit.identity import Owner
from service_kit.ids import asset_id
from service_kit.storage_errors import is_full
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_NOBODY = Owner("", "")


@dataclass(frozen=True, slots=True)
class Winner:
    """An output that won: its receipt, and how it was made."""

    asset_index: int
    receipt: str
    provenance: bytes


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: its winners, or none. With a `refusal` it delivers nothing, for that reason."""

    job_id: str
    owner: Owner
    winners: tuple[Winner, ...] = ()
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class _Proven:
    """A winner whose receipt is good and whose bytes are there."""

    winner: Winner
    upload_id: str
    generation: str


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a settlement does: the row, the assets that it makes, and the uploads that these are made of."""

    settlement: Settlement
    assets: tuple[Asset, ...] = ()
    used: frozenset[str] = frozenset()


class Settling:
    """Carries settlements out."""

    def __init__(
        self,
        storage: Storage,
        store: BlobStore,
        receipts: Receipts,
        removal: Removal,
        watchers: Watchers,
        *,
        asset_expiry: timedelta,
    ) -> None:
        self._storage = storage
        self._store = store
        self._receipts = receipts
        self._removal = removal
        self._watchers = watchers
        self._asset_expiry = asset_expiry

    async def settle(self, ending: Ending) -> Settlement:
        """Publish a job's winners, give up its other uploads, release its holds; a repeat gets the first answer."""
        [answer] = await self.settle_many([ending])
        if isinstance(answer, AtelierError):
            raise answer
        return answer

    async def settle_many(self, endings: Sequence[Ending]) -> list[Settlement | AtelierError]:
        """Settle jobs in one transaction. Returns for each its settlement, or why it must be sent again.

        Raises:
            Unavailable, ResourceExhausted, Aborted: the database could not take them; nothing was done.
        """
        wanted: dict[str, Ending] = {}
        for ending in endings:
            wanted.setdefault(ending.job_id, ending)
        async with self._storage.read() as tx:
            known = await tx.settlements.find_many(list(wanted))
        answers: dict[str, Settlement | AtelierError] = dict(known)
        new = [ending for job_id, ending in wanted.items() if job_id not in known]
        provable: dict[str, tuple[Ending, list[_Proven]]] = {}
        for ending, proven in zip(new, await asyncio.gather(*map(self._prove_all, new)), strict=True):
            if isinstance(proven, AtelierError):
                answers[ending.job_id] = proven
            else:
                provable[ending.job_id] = ending, proven
        answers |= await self._commit_or_each(provable)
        return [answers[ending.job_id] for ending in endings]

    async def _prove_all(self, ending: Ending) -> list[_Proven] | AtelierError:
        """Return the winners whose bytes are there; an error when the store cannot say."""
        try:
            found = [await self._prove(ending.job_id, winner) for winner in ending.winners]
        except (AtelierError, OSError):
            log.exception("settlement_postponed", job_id=ending.job_id)
            return Unavailable("The blob store cannot be read at the moment; the job is settled later.")
        return [good for good in found if good is not None]

    async def _prove(self, job_id: str, winner: Winner) -> _Proven | None:
        """Check a receipt, and that the bytes are still there, whole; None when the output is lost."""
        receipt = self._receipts.verify(winner.receipt, job_id=job_id, asset_index=winner.asset_index)
        if receipt is None:
            log.warning("receipt_refused", job_id=job_id, asset_index=winner.asset_index)
            return None
        try:
            info, why = await self._store.stat(WORKSPACE_BUCKET, receipt.key), "it is not there"
        except UnreadableBlob as error:
            if not error.is_lost:
                raise
            # No later look would find it whole, and the job would never end.
            info, why = None, error.why
        if info is None or info.generation != receipt.generation:
            log.error("output_lost", job_id=job_id, asset_index=winner.asset_index, key=receipt.key, why=why)
            return None
        return _Proven(winner, receipt.upload_id, receipt.generation)

    async def _commit_or_each(
        self, jobs: Mapping[str, tuple[Ending, list[_Proven]]]
    ) -> dict[str, Settlement | AtelierError]:
        """Settle all in one transaction; when that fails by itself, each in its own, so that one harms no other."""
        if not jobs:
            return {}
        try:
            return {**await self._commit(jobs)}
        except AtelierError:
            # The database is away or full: that is no fault of a job.
            raise
        except Exception as error:
            if is_full(error):
                raise
            if len(jobs) == 1:
                # Nothing that we know to be wrong with this job: it is kept and tried again, never given up.
                [job_id] = jobs
                log.exception("settlement_failed", job_id=job_id)
                return {job_id: Internal("The job could not be settled; it is tried again.")}
            log.warning("settlements_failed_together", count=len(jobs), exc_info=True)
        answers: dict[str, Settlement | AtelierError] = {}
        for job_id, job in jobs.items():
            answers |= await self._commit_or_each({job_id: job})
        return answers

    async def _commit(self, jobs: Mapping[str, tuple[Ending, list[_Proven]]]) -> dict[str, Settlement]:
        job_ids = sorted(jobs)
        async with self._storage.write() as tx:
            settled = await tx.settled_among(job_ids)
            left = [jobs[job_id] for job_id in job_ids if job_id not in settled]
            left = await _without_erased(tx, left)
            outcomes = await self._outcomes(tx, left) if left else []
            left_over = bool(outcomes) and await _write(tx, outcomes)
            crash.reach("asset.settle.before_commit")
        crash.reach("asset.settle.committed")
        for outcome in outcomes:
            settlement = outcome.settlement
            log.info(
                "job_settled",
                job_id=settlement.job_id,
                published=len(settlement.published),
                lost=list(settlement.lost),
                refusal=settlement.refusal,
            )
        for owner in {outcome.settlement.owner for outcome in outcomes}:
            self._watchers.notify(owner)
        if left_over:
            self._removal.nudge()
        return settled | {outcome.settlement.job_id: outcome.settlement for outcome in outcomes}

    async def _outcomes(self, tx: Transaction, jobs: Sequence[tuple[Ending, list[_Proven]]]) -> list[_Outcome]:
        """Decide what each settlement does. The jobs are locked; their uploads are from here on."""
        uploads = await tx.uploads.lock_jobs([ending.job_id for ending, _ in jobs])
        parts: dict[str, list[Upload]] = defaultdict(list)
        for upload in uploads:
            parts[upload.output_upload_id or ""].append(upload)
        by_id = {upload.upload_id: upload for upload in uploads}
        wanted = [asset_id(ending.job_id, good.winner.asset_index) for ending, proven in jobs for good in proven]
        owners = await tx.assets.owners(wanted)
        now = await tx.now()
        outcomes = []
        for ending, proven in jobs:
            new: dict[int, tuple[Asset, set[str]]] = {}
            # An asset that was published by a settlement whose row is trimmed, or a tombstone: its owner discarded it
            # before it was published, and the upload goes with the losers.
            there = {
                good.winner.asset_index
                for good in proven
                if owners.get(asset_id(ending.job_id, good.winner.asset_index)) == ending.owner
            }
            for good in proven:
                index, output = good.winner.asset_index, by_id.get(good.upload_id)
                if output is None or index in there or index in new or not _is_of(output, ending, good):
                    continue
                if output.asset_id in owners:
                    log.error("settlement_of_another_owner", job_id=ending.job_id, upload_id=output.upload_id)
                    continue
                files = parts[output.upload_id]
                asset = published_asset(output, files, good.winner.provenance, now=now, expiry=self._asset_expiry)
                new[index] = asset, {output.upload_id, *(file.upload_id for file in files)}
            outcomes.append(_outcome(ending, there, new))
        return outcomes


async def _without_erased(
    tx: Transaction, jobs: Sequence[tuple[Ending, list[_Proven]]]
) -> list[tuple[Ending, list[_Proven]]]:
    """Refuse, for good, to publish anything for owners that were erased; of them no more is kept than the job's id."""
    erased = await tx.erased.among({ending.owner for ending, _ in jobs})
    return [
        (Ending(ending.job_id, _NOBODY, refusal=owner_erased().message), []) if ending.owner in erased else job
        for job in jobs
        for ending in (job[0],)
    ]


def _outcome(ending: Ending, there: set[int], new: Mapping[int, tuple[Asset, set[str]]]) -> _Outcome:
    published = there | new.keys()
    lost = {winner.asset_index for winner in ending.winners} - published
    settlement = Settlement(ending.job_id, ending.owner, tuple(sorted(published)), tuple(sorted(lost)), ending.refusal)
    assets, used = (
        tuple(asset for asset, _ in new.values()),
        frozenset[str]().union(*(files for _, files in new.values())),
    )
    return _Outcome(settlement, assets, used)


def _is_of(upload: Upload, ending: Ending, good: _Proven) -> bool:
    """Tell whether an upload is what a winner says: staged, of this generation, of this job and its owner."""
    if upload.state is not UploadState.STAGED or upload.generation != good.generation or upload.media is None:
        return False
    if (upload.job_id, upload.asset_index, upload.owner) != (ending.job_id, good.winner.asset_index, ending.owner):
        log.error("settlement_of_another_owner", job_id=ending.job_id, upload_id=upload.upload_id)
        return False
    return True


async def _write(tx: Transaction, outcomes: Sequence[_Outcome]) -> bool:
    """Write all that settlements do, with one statement for each kind of change. Returns whether bytes are to go."""
    settlements = [outcome.settlement for outcome in outcomes]
    assets = [asset for outcome in outcomes for asset in outcome.assets]
    job_ids = [settlement.job_id for settlement in settlements]
    # The keys of what is used belong to the assets from now on.
    await tx.uploads.forget([upload_id for outcome in outcomes for upload_id in outcome.used])
    given_up = await tx.uploads.delete_later_of_jobs(job_ids)
    await tx.assets.add_many(assets)
    await tx.settlements.add_many(settlements)
    released = await tx.holds.release([job_holder(job_id) for job_id in job_ids])
    for asset in assets:
        tx.events.add(EventKind.PUBLISHED, asset)
    await tx.note_all(
        ("settled", one.owner, one.job_id, {"published": list(one.published), "lost": list(one.lost)})
        for one in settlements
        if one.owner != _NOBODY
    )
    return bool(given_up or released)

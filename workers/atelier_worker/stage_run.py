"""One lease from its references to its outcome: the engine works while its outputs are uploaded."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from atelier.engine.v1 import engine_host_pb2
from atelier.router.v1 import chat_pb2, job_pb2
from atelier.type.v1 import error_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker import lease_wire
from atelier_worker.engine import PREVIEW_LIMIT_BYTES, Reference
from atelier_worker.engine_client import EngineClient
from atelier_worker.engine_events import EngineUnavailable, TaskEnd
from atelier_worker.engine_tasks import DEFAULT_CANCEL_GRACE_S
from atelier_worker.patience import TransferFailed
from atelier_worker.refs import Ref
from atelier_worker.reports import Reports
from atelier_worker.uploads import Transfers
from service_kit import crash
from service_kit.telemetry import get_logger

_UPLOADS_AT_ONCE = 2
_MOST_WARNINGS = 20
_WARNING_CHARACTERS = 500
# The router keeps no more of a text.
_ENHANCEMENT_CHARACTERS = 32_000
_REPLY_CHARACTERS = 100_000
_EXTENSIONS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "video/mp4": ".mp4"}

log = get_logger(__name__)


class Stop(Enum):
    """Why a run is stopped."""

    CANCELLED = "cancelled"
    LOST = "lost"
    SHUTDOWN = "shutdown"


class StageRun:
    """Runs one lease. It is the sink of its task: what the engine says arrives here."""

    def __init__(
        self,
        lease: pb.Lease,
        *,
        engine: EngineClient,
        engine_name: str,
        transfers: Transfers,
        workdir: Path,
        reports: Reports,
        on_engine_done: Callable[[], None],
    ) -> None:
        """Prepare a run in an empty folder. `on_engine_done` hears when the engine is free again."""
        self.ref = Ref.of(lease.ref)
        self.in_engine = True
        self._lease = lease
        self._engine = engine
        self._engine_name = engine_name
        self._transfers = transfers
        self._workdir = workdir
        self._reports = reports
        self._on_engine_done = on_engine_done
        self._stop: Stop | None = None
        self._text: list[str] = []
        is_chat = lease.spec.kind == job_pb2.STAGE_KIND_CHAT
        self._most_text = _REPLY_CHARACTERS if is_chat else _ENHANCEMENT_CHARACTERS
        self._text_left = self._most_text
        self._text_cut = False
        self._finish: engine_host_pb2.TaskFinish | None = None
        self._warnings: list[str] = []
        self._receipts: dict[int, str] = {}
        self._failures: dict[int, job_pb2.Failure] = {}
        self._any_retryable = False
        self._uploads: set[asyncio.Task[None]] = set()
        self._upload_slots = asyncio.Semaphore(_UPLOADS_AT_ONCE)
        self._fetching: asyncio.Task[tuple[Reference, ...]] | None = None

    async def run(self) -> pb.Outcome | None:
        """Do the work and return how it ended; None when it was lost or given up, so that there is no outcome."""
        self._reports.open(self.ref)
        outcome: pb.Outcome | None = None
        try:
            outcome = await self._work()
        finally:
            self._release_engine()
            for upload in self._uploads:
                upload.cancel()
            if self._uploads:
                await asyncio.gather(*self._uploads, return_exceptions=True)
        return outcome

    async def clear(self) -> None:
        """Remove the folder, after `run` has ended and its outcome is on its way: nobody waits for that."""
        # A text seldom has one, and to look costs less than a change of threads.
        if self._workdir.exists():
            await asyncio.to_thread(shutil.rmtree, self._workdir, ignore_errors=True)

    def stop(self, why: Stop, grace_s: float = DEFAULT_CANCEL_GRACE_S) -> None:
        """End the run early: the engine stops at its next step, uploads are dropped."""
        if self._stop is not None:
            return
        self._stop = why
        self._engine.cancel(self, grace_s)
        if self._fetching is not None:
            self._fetching.cancel()
        for upload in self._uploads:
            upload.cancel()

    @property
    def uploads(self) -> int:
        """How many outputs have been made and not yet been stored or given up."""
        return sum(not upload.done() for upload in self._uploads)

    @property
    def stopped(self) -> Stop | None:
        """Why the run was stopped; None when it was not."""
        return self._stop

    # What the engine says.

    def on_progress(self, asset_index: int | None, step: int, steps: int, phase: str) -> None:
        progress = pb.StepProgress(asset_index=asset_index or 0, step=step, steps=steps, phase=phase)
        self._reports.progress(self.ref, progress)

    def on_preview(self, asset_index: int, step: int, content_type: str, image: bytes) -> None:
        if len(image) <= PREVIEW_LIMIT_BYTES:
            preview = pb.PreviewImage(asset_index=asset_index, step=step, content_type=content_type, image=image)
            self._reports.preview(self.ref, preview)

    def on_text(self, text: str) -> None:
        kept = text[: self._text_left]
        self._text_left -= len(kept)
        if len(kept) < len(text) and not self._text_cut:
            self._text_cut = True
            self.on_warning(f"The engine wrote more than {self._most_text} characters; the rest is cut off.")
        if kept:
            self._text.append(kept)
            self._reports.text(self.ref, kept)

    def on_finish(self, finish: engine_host_pb2.TaskFinish) -> None:
        self._finish = finish

    def on_log(self, line: str) -> None:
        self._reports.log(self.ref, line)

    def on_warning(self, message: str) -> None:
        # Engines say it for each batch, and again for each attempt.
        known = message[:_WARNING_CHARACTERS] in self._warnings
        if not known and len(self._warnings) < _MOST_WARNINGS:
            self._warnings.append(message[:_WARNING_CHARACTERS])

    def on_delivered(self, asset_index: int, path: Path, renditions: Mapping[str, Path]) -> None:
        crash.reach("worker.engine.delivered")
        if self._stop is None:
            self._uploads.add(asyncio.create_task(self._upload(asset_index, path, renditions)))

    def on_failed(self, asset_index: int, reason: str, retryable: bool) -> None:
        self._failures[asset_index] = lease_wire.failure(error_pb2.ERROR_REASON_ENGINE_FAILED, reason)
        self._any_retryable = self._any_retryable or retryable

    # The steps of the work.

    async def _work(self) -> pb.Outcome | None:
        try:
            references = await self._references()
        except TransferFailed as error:
            log.warning("reference_unreadable", job_id=self.ref.job_id, error=str(error))
            why = lease_wire.failure(error_pb2.ERROR_REASON_REFERENCE_UNREADABLE, "A reference could not be read.")
            return lease_wire.fail_stage(self._outcome(), why, retryable=error.retryable)
        if (why_stopped := self.stopped) is not None:
            return self._stopped(why_stopped)
        stage_key = f"{self.ref.job_id}/{self.ref.stage}"
        task = lease_wire.task_of(self._lease.spec, references, stage_key)
        try:
            end = await self._engine.run(task, self._workdir, self)
        except EngineUnavailable as error:
            end = TaskEnd("crashed", str(error), retryable=True)
        self._release_engine()
        if self._uploads:
            await self._settle_uploads()
        if (why_stopped := self.stopped) is not None:
            return self._stopped(why_stopped)
        return self._ended(task.stage, task.indexes, end)

    async def _references(self) -> tuple[Reference, ...]:
        """Bring the references to disk. Without any, nothing is awaited: the first step should be seen soon."""
        if not self._lease.spec.references:
            return ()
        self._fetching = asyncio.create_task(self._fetch())
        try:
            return await self._fetching
        except asyncio.CancelledError:
            if self._stop is None:
                raise
            return ()
        finally:
            self._fetching.cancel()

    async def _fetch(self) -> tuple[Reference, ...]:
        folder = self._workdir / "references"
        await asyncio.to_thread(folder.mkdir)
        found: list[Reference] = []
        for number, leased in enumerate(self._lease.spec.references):
            path = folder / f"{number}{_EXTENSIONS.get(leased.media.content_type, '')}"
            await self._transfers.read_reference(leased.reference.asset_id, leased.media, path)
            kind = lease_wire.REFERENCE_KINDS.get(leased.reference.kind, "style")
            found.append(Reference(kind, leased.reference.strength, path, leased.media.content_type))
        return tuple(found)

    async def _upload(self, asset_index: int, path: Path, renditions: Mapping[str, Path]) -> None:
        try:
            async with self._upload_slots:
                self._receipts[asset_index] = await self._transfers.upload_output(asset_index, path, renditions)
        except (TransferFailed, OSError) as error:
            log.warning("output_lost", job_id=self.ref.job_id, asset_index=asset_index, error=str(error))
            self._note_lost(asset_index, error)
        if self.in_engine:
            # There may be many of them. The last goes with the folder.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(path.unlink)

    def _note_lost(self, asset_index: int, error: TransferFailed | OSError) -> None:
        """Note why an output is not stored. A file that nobody takes is the engine's fault, and would be again."""
        if isinstance(error, TransferFailed) and error.is_refused:
            self.on_failed(asset_index, f"The engine delivered a file that is not taken. {error}", retryable=False)
            return
        lost = "The output was made, but it could not be stored."
        self._failures[asset_index] = lease_wire.failure(error_pb2.ERROR_REASON_OUTPUT_LOST, lost)
        self._any_retryable = True

    async def _settle_uploads(self) -> None:
        """Wait for every upload. One that was stopped is no fault; a fault of ours is not swallowed."""
        for result in await asyncio.gather(*self._uploads, return_exceptions=True):
            if isinstance(result, BaseException) and self._stop is None:
                raise result

    def _release_engine(self) -> None:
        if self.in_engine:
            self.in_engine = False
            self._on_engine_done()

    # The outcome.

    def _outcome(self) -> pb.Outcome:
        return lease_wire.outcome(self._lease.ref, self._engine_name, self._warnings)

    def _stopped(self, why: Stop) -> pb.Outcome | None:
        if why is not Stop.CANCELLED:
            return None
        outcome = self._outcome()
        outcome.cancelled.SetInParent()
        return outcome

    def _ended(self, stage: str, indexes: tuple[int, ...], end: TaskEnd) -> pb.Outcome:
        outcome = self._outcome()
        text = "".join(self._text)
        if end.kind == "crashed":
            crashed = lease_wire.failure(error_pb2.ERROR_REASON_ENGINE_CRASHED, end.message)
            return lease_wire.fail_stage(outcome, crashed, retryable=end.retryable)
        failed = self._failure_of(end, stage, text)
        if failed is not None and (end.retryable or not self._receipts):
            return lease_wire.fail_stage(outcome, failed, retryable=end.retryable)
        if stage != "generate":
            outcome.text = text
            self._note_finish(outcome)
            return outcome
        if not self._receipts and self._failures:
            first = self._failures[min(self._failures)]
            return lease_wire.fail_stage(outcome, first, retryable=self._any_retryable)
        if failed is not None:
            for index in indexes:
                self._failures.setdefault(index, failed)
        return lease_wire.fill_manifest(outcome, indexes, self._receipts, self._failures)

    def _note_finish(self, outcome: pb.Outcome) -> None:
        if self._finish is not None:
            outcome.finish_reason = self._finish.reason
            if self._finish.HasField("usage"):
                outcome.usage.CopyFrom(self._finish.usage)
            if self._finish.HasField("enhanced_by"):
                outcome.enhanced_by.CopyFrom(self._finish.enhanced_by)
        if self._text_cut:
            outcome.finish_reason = chat_pb2.FINISH_REASON_LENGTH

    def _failure_of(self, end: TaskEnd, stage: str, text: str) -> job_pb2.Failure | None:
        """Return why the stage failed as a whole, or None when the engine came to its end."""
        reason = error_pb2.ERROR_REASON_ENGINE_FAILED
        if stage == "enhance":
            reason = error_pb2.ERROR_REASON_ENHANCEMENT_FAILED
        if end.kind == "failed":
            return lease_wire.failure(reason, end.message)
        if end.kind == "cancelled":
            return lease_wire.failure(reason, "The engine stopped although nobody asked it to.")
        if not text and (stage == "enhance" or (stage == "chat" and self._finish is None)):
            return lease_wire.failure(reason, "The engine wrote no text.")
        if stage == "generate" and not self._receipts and not self._failures:
            return lease_wire.failure(reason, "The engine ended without any output.")
        return None

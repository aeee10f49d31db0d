"""What a worker holds: the stages it runs, and the outcomes that the router has not answered. It outlives sessions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import grpc

from atelier.router.v1 import job_pb2, model_pb2
from atelier.type.v1 import error_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker import lease_wire
from atelier_worker.dial import dial
from atelier_worker.engine_client import EngineClient
from atelier_worker.engine_tasks import DEFAULT_CANCEL_GRACE_S
from atelier_worker.journal import Journal
from atelier_worker.outbox import Outbox
from atelier_worker.outcome_writer import OutcomeWriter
from atelier_worker.patience import Patience
from atelier_worker.refs import Ref
from atelier_worker.spool import Spool
from atelier_worker.stage_run import StageRun, Stop
from atelier_worker.uploads import Transfers
from atelier_worker.whole_outputs import WholeOutputs
from atelier_worker.whole_references import WholeReferences
from service_kit import crash
from service_kit.telemetry import get_logger

# An engine that is told to stop because the worker goes: less than the worker then waits, so that what hangs is handed
# back, too.
_LAST_GRACE_S = 1.0
# What a heartbeat may say of models in memory.
_MOST_LOADED = 100
_LONGEST_NAME = 200
_LONGEST_DEVICE = 64

log = get_logger(__name__)


@dataclass(slots=True)
class _Unanswered:
    outcome: pb.Outcome
    ref: Ref
    lost: bool = False


class Holdings:
    """Takes leases, runs them, and keeps each outcome until the router has said what became of it."""

    def __init__(
        self,
        *,
        engine: EngineClient,
        engine_name: str,
        slots: int,
        spool: Spool,
        journal: Journal,
        outbox: Outbox,
        patience: Patience,
        handover: Path | None = None,
    ) -> None:
        """Begin with what the journal holds from an earlier process, and own it."""
        self._engine = engine
        self._engine_name = engine_name
        self._slots = slots
        self._spool = spool
        self._writer = OutcomeWriter(journal)
        self._outbox = outbox
        self._patience = patience
        self._handover = handover
        self._runs: dict[Ref, StageRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unanswered = {
            outcome.completion_id: _Unanswered(outcome, Ref.of(outcome.ref)) for outcome in journal.kept()
        }
        self._handed_back: dict[Ref, str] = {}
        self._channels: dict[str, tuple[grpc.aio.Channel, WholeOutputs, WholeReferences]] = {}
        self._upload_endpoint = ""
        self._connected = False
        self._draining = False
        self._idle = asyncio.Event()
        self._note_idle()

    @property
    def draining(self) -> bool:
        """Whether no more leases are wanted."""
        return self._draining

    def loaded(self) -> list[model_pb2.LoadedModel]:
        """Return what the engine keeps in memory, as much of it as a heartbeat may say."""
        return [
            model_pb2.LoadedModel(
                name=model.name[:_LONGEST_NAME] or "?",
                device=model.device[:_LONGEST_DEVICE],
                size_bytes=max(model.size_bytes, 0),
            )
            for model in self._engine.loaded[:_MOST_LOADED]
        ]

    @property
    def uploads(self) -> int:
        """How many outputs are on their way."""
        return sum(run.uploads for run in self._runs.values())

    def refs(self) -> list[pb.LeaseRef]:
        """Return every lease that is held: running, ended with an unanswered outcome, or being handed back."""
        ended = [entry.ref for entry in self._unanswered.values() if not entry.lost]
        return [ref.to_proto() for ref in dict.fromkeys([*self._runs, *ended, *self._handed_back])]

    # What the router says.

    def welcome(self, welcome: pb.Welcome) -> None:
        """Begin a session: stop what was lost meanwhile, say again what was not answered, ask for work."""
        self._connected = True
        self._upload_endpoint = welcome.upload_endpoint
        for ref in welcome.lost:
            self.lose(ref)
        for entry in self._unanswered.values():
            self._outbox.put(pb.WorkRequest(outcome=entry.outcome))
        for back, reason in self._handed_back.items():
            self._reject(back, reason)
        self._note_idle()
        if self._draining:
            self._outbox.put(pb.WorkRequest(drain=pb.Drain()))
        self.tell_credits(repeat=True)

    def session_ended(self) -> None:
        """Go on without a session."""
        self._connected = False
        self._outbox.reset()
        self._note_idle()

    def take(self, lease: pb.Lease) -> None:
        """Take a lease and start on it, or hand it back."""
        ref = Ref.of(lease.ref)
        if ref in self._runs or any(entry.ref == ref for entry in self._unanswered.values()):
            self._outbox.put(pb.WorkRequest(lease_ack=pb.LeaseAck(ref=lease.ref)))
            self.tell_credits(repeat=True)
            return
        for other in [other for other in self._runs if other[:2] == ref[:2] and other.fence < ref.fence]:
            self._runs[other].stop(Stop.LOST)
        refusal = self._why_not()
        if refusal:
            self._refuse(ref, refusal)
            return
        try:
            workdir = self._spool.new_task_dir() if _has_files(lease) else self._spool.task_dir()
        except OSError as error:
            self._refuse(ref, f"the worker's disk cannot be written: {error.strerror}")
            return
        # First, so that the engine hears of it before the router does: somebody waits for what it makes.
        self._start(ref, lease, workdir)
        self._outbox.put(pb.WorkRequest(lease_ack=pb.LeaseAck(ref=lease.ref)))

    def cancel(self, message: pb.LeaseRef, grace_s: float = 0.0) -> None:
        """Stop a stage whose job was cancelled; its outcome says so."""
        run = self._runs.get(Ref.of(message))
        if run is not None:
            run.stop(Stop.CANCELLED, grace_s or DEFAULT_CANCEL_GRACE_S)

    def lose(self, message: pb.LeaseRef) -> None:
        """Stop a stage that is somebody else's now, and drop what it made.

        An outcome is still offered, since it may have been recorded, but the lease is no longer named.
        """
        ref = Ref.of(message)
        self._handed_back.pop(ref, None)
        run = self._runs.get(ref)
        if run is not None:
            log.info("lease_lost", job_id=ref.job_id, stage=ref.stage)
            run.stop(Stop.LOST)
        for entry in self._unanswered.values():
            if entry.ref == ref:
                entry.lost = True
        # A router that believes a lease unanswered gives no other until it hears how much is wanted.
        self.tell_credits(repeat=True)

    def answered(self, ack: pb.OutcomeAck) -> None:
        """Forget an outcome: the router has recorded it, or it no longer counts."""
        if ack.status == pb.OUTCOME_STATUS_UNSPECIFIED:
            log.error("outcome_answer_unknown", completion_id=ack.completion_id)
            return
        if self._unanswered.pop(ack.completion_id, None) is not None:
            status = pb.OutcomeStatus.Name(ack.status).removeprefix("OUTCOME_STATUS_").lower()
            log.info("outcome_answered", job_id=ack.ref.job_id, stage=ack.ref.stage, status=status)
            self._writer.forget(ack)
        self._changed()

    # The worker's own life.

    def tell_credits(self, *, repeat: bool = False) -> None:
        """Say how many stages can be taken now. Uploads do not hold a slot, but many unfinished ones stop new work."""
        self._outbox.set_credits(0 if self._why_not() else self._free(), repeat=repeat)

    def drain(self) -> None:
        """Want no more leases."""
        self._draining = True
        if self._connected:
            self._outbox.put(pb.WorkRequest(drain=pb.Drain()))
        self.tell_credits()

    async def wait_idle(self) -> None:
        """Wait until nothing runs, nothing is unanswered, and what is handed back can be said."""
        await self._idle.wait()

    def stop_all(self) -> None:
        """Stop every stage; each lease is handed back, so that it costs no attempt."""
        for run in self._runs.values():
            run.stop(Stop.SHUTDOWN, _LAST_GRACE_S)

    async def close(self) -> None:
        """End everything at once. Unanswered outcomes stay in the spool."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._writer.close()
        for channel, whole_outputs, whole_references in self._channels.values():
            await whole_outputs.close()
            await whole_references.close()
            await channel.close()

    def _free(self) -> int:
        in_engine = sum(run.in_engine for run in self._runs.values())
        return max(0, min(self._slots - in_engine, 2 * self._slots - len(self._runs)))

    def _why_not(self) -> str:
        if self._draining:
            return "the worker is going down"
        if not self._engine.ready:
            return "the engine is being started again"
        if not self._spool.has_room():
            return "the worker's disk is full"
        return "" if self._free() > 0 else "no slot is free"

    def _refuse(self, ref: Ref, reason: str) -> None:
        """Hand back a lease that was not begun."""
        self._reject(ref, reason)
        self.tell_credits(repeat=True)

    def _reject(self, ref: Ref, reason: str) -> None:
        log.info("lease_rejected", job_id=ref.job_id, stage=ref.stage, reason=reason)
        self._outbox.put(pb.WorkRequest(lease_reject=pb.LeaseReject(ref=ref.to_proto(), reason=reason)))

    def _start(self, ref: Ref, lease: pb.Lease, workdir: Path) -> None:
        channel, whole_outputs, whole_references = self._upload_channel()
        transfers = Transfers(
            channel,
            lease.token,
            self._patience,
            handover=self._handover,
            whole_outputs=whole_outputs,
            whole_references=whole_references,
        )
        run = self._runs[ref] = StageRun(
            lease,
            engine=self._engine,
            engine_name=self._engine_name,
            transfers=transfers,
            workdir=workdir,
            reports=self._outbox.reports,
            on_engine_done=self.tell_credits,
        )
        task = asyncio.create_task(self._run(run), name=f"stage {ref.job_id}/{ref.stage}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._changed()

    def _upload_channel(self) -> tuple[grpc.aio.Channel, WholeOutputs, WholeReferences]:
        if self._upload_endpoint not in self._channels:
            channel = dial(self._upload_endpoint)
            outputs = WholeOutputs(channel, handover=self._handover)
            references = WholeReferences(channel, handover=self._handover)
            self._channels[self._upload_endpoint] = channel, outputs, references
        return self._channels[self._upload_endpoint]

    async def _run(self, run: StageRun) -> None:
        try:
            await self._run_and_offer(run)
            self._runs.pop(run.ref, None)
            self._changed()
        finally:
            await run.clear()

    async def _run_and_offer(self, run: StageRun) -> None:
        try:
            outcome = await run.run()
        except Exception:
            log.exception("stage_fault", job_id=run.ref.job_id, stage=run.ref.stage)
            fault = lease_wire.failure(error_pb2.ERROR_REASON_INTERNAL, "A fault in the worker ended the stage.")
            outcome = lease_wire.outcome(run.ref.to_proto(), self._engine_name)
            outcome = lease_wire.fail_stage(outcome, fault, retryable=True)
        if outcome is None:
            self._outbox.reports.close(run.ref)
            if run.stopped is Stop.SHUTDOWN:
                self._hand_back(run.ref, "the worker goes down before it has finished")
        else:
            await self._offer(run.ref, outcome)

    def _hand_back(self, ref: Ref, reason: str) -> None:
        """Hand back a lease that was begun. Nobody answers that, so it is named and said again in a later session."""
        self._handed_back[ref] = reason
        if self._connected:
            self._reject(ref, reason)

    async def _offer(self, ref: Ref, outcome: pb.Outcome) -> None:
        """Make an outcome durable, then send it behind the last reports of its stage."""
        try:
            await self._writer.keep(outcome)
        except OSError as error:
            # It is still sent from memory: only a crash before the answer would cost the work.
            log.error("outcome_not_spooled", job_id=ref.job_id, error=str(error))
        crash.reach("worker.outcome.spooled")
        self._unanswered[outcome.completion_id] = _Unanswered(outcome, ref)
        last = self._outbox.reports.close(ref)
        if self._connected:
            if last:
                self._outbox.put(pb.WorkRequest(reports=pb.Reports(reports=last)))
            self._outbox.put(pb.WorkRequest(outcome=outcome))

    def _changed(self) -> None:
        self._note_idle()
        self.tell_credits()

    def _note_idle(self) -> None:
        if self._runs or self._unanswered or (self._handed_back and not self._connected):
            self._idle.clear()
        else:
            self._idle.set()


def _has_files(lease: pb.Lease) -> bool:
    """Tell whether a stage reads or makes files."""
    return lease.spec.kind == job_pb2.STAGE_KIND_GENERATE or bool(lease.spec.references)

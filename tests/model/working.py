"""What workers do: connect, take leases, upload, report; also late, twice, and what is not so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atelier.router.v1 import job_pb2
from atelier.type.v1 import error_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from router_service.domain import Job, JobState, OutputState, StageKind
from service_kit.errors import AtelierError, ErrorReason
from tests.model.house import MAX_ATTEMPTS, MAX_LEASES, Running
from tests.model.workers import SLOTS, Leased, Ref, Worker, to_message
from tests.model.world import Work, World, deed, is_current

_RESULTS = (
    "good", "good", "good", "good", "partial", "forged",
    "nothing", "retryable", "retryable", "permanent", "stopped", "undeclared",
)  # fmt: skip
_REFUSALS = (
    ErrorReason.ALREADY_SETTLED,
    ErrorReason.OUT_OF_RANGE,
    ErrorReason.INVALID_LEASE,
    ErrorReason.INCOMPLETE_UPLOAD,
    ErrorReason.UNSUPPORTED_MEDIA,
    ErrorReason.MEDIA_DAMAGED,
)


class Working(World):
    """Deeds of workers."""

    # --- sessions ---------------------------------------------------------------------------------------------------

    @deed(5)
    def connect(self, a: int, b: int, c: int) -> Work:
        """Begin a session, naming all leases, the first, none, or every one that was ever had."""
        worker = self.workers[a % 2]
        refs = list(worker.leases)
        if c > 9:
            worker.leases |= {leased.ref: leased for leased in worker.past}
            refs = list(worker.leases)
        elif c > 7:
            refs = refs[: c - 8]
        return self._connect(worker, self.router(b), refs)

    async def _connect(self, worker: Worker, router: Running, refs: Sequence[Ref]) -> None:
        before = self.state
        welcome = await worker.connect(router, refs)
        kept = {(ref.job_id, ref.stage, ref.fence) for ref in welcome.kept}
        for ref in refs:
            current = is_current(before.jobs.get(ref[0]), ref, worker)
            assert (ref in kept) == current, "a worker keeps what nobody else has leased"
        for ref in kept:
            self.seen["kept"] += 1
            self.seen["kept, once lost"] += before.jobs[ref[0]].state is JobState.QUEUED
            self.renewed[ref] = self.house.clock.now()
            self.began.add(ref)
        await worker.credit(SLOTS - len(worker.leases))
        after = await self.look()
        for job_id, row in before.leases.items():
            if row.holder == worker.holder and (job_id, row.stage, row.fence) not in kept:
                now = after.jobs[job_id]
                assert now.state in (JobState.QUEUED, JobState.FAILED), (
                    "what a worker does not name is not its any more"
                )

    @deed()
    def disconnect(self, a: int, b: int, c: int) -> Work:
        """A connection breaks, or a worker dies."""
        return self.workers[a % 2].die() if b > 6 else self.workers[a % 2].disconnect()

    @deed()
    def credit(self, a: int, b: int, c: int) -> Work | None:
        worker = self.workers[a % 2]
        return worker.credit(b % (SLOTS + 1)) if worker.connected else None

    # --- leases -----------------------------------------------------------------------------------------------------

    @deed(4)
    def acknowledge(self, a: int, b: int, c: int) -> Work | None:
        found = self.lease(a)
        return self.say_started(*found) if found else None

    async def say_started(self, worker: Worker, leased: Leased) -> None:
        """Acknowledge a lease."""
        leased.acknowledged = True
        self.began.add(leased.ref)
        row = self.state.leases.get(leased.ref[0])
        await worker.say(lease_ack=pb.LeaseAck(ref=to_message(leased.ref)))
        if row is None:
            return
        mine = _has(row, leased.ref, worker)
        now = (await self.look()).leases.get(leased.ref[0])
        assert now is None or now.acknowledged == (row.acknowledged or mine), "an ack counts only with its fence"
        if mine:
            self.renewed[leased.ref] = self.house.clock.now()

    @deed(2)
    def reject(self, a: int, b: int, c: int) -> Work | None:
        found = self.lease(a)
        return self.hand_back(*found) if found else None

    @deed()
    def answer_an_old_lease(self, a: int, b: int, c: int) -> Work | None:
        """Acknowledge or hand back a lease that may be anybody's by now."""
        leased, worker = self.old_lease(a), self.workers[b % 2]
        if leased is None or not worker.connected:
            return None
        return self.hand_back(worker, leased) if c > 5 else self.say_started(worker, leased)

    async def hand_back(self, worker: Worker, leased: Leased) -> None:
        """Reject a lease, begun or not."""
        row, was = self.state.leases.get(leased.ref[0]), self.state.jobs[leased.ref[0]]
        worker.leases.pop(leased.ref, None)
        # Until it says anew how many it takes.
        worker.allowed = 0
        await worker.say(lease_reject=pb.LeaseReject(ref=to_message(leased.ref), reason="full"))
        after = (await self.look()).jobs[leased.ref[0]]
        if row is None or not _has(row, leased.ref, worker):
            assert after == was, "only who has a lease can hand it back"
            return
        self.seen["rejected"] += 1
        self.began.discard(leased.ref)
        assert after.state in (JobState.QUEUED, JobState.FAILED)

    @deed(3)
    def heartbeat(self, a: int, b: int, c: int) -> Work | None:
        """Renew all leases, one, none, or every one that anybody ever had."""
        worker = self.workers[a % 2]
        if not worker.connected:
            return None
        refs = list(worker.leases)
        if b > 9:
            refs = list({leased.ref: leased for each in self.workers for leased in each.past})
        elif b > 7:
            refs = refs[: b - 8]
        return self._heartbeat(worker, refs)

    async def _heartbeat(self, worker: Worker, refs: Sequence[Ref]) -> None:
        before = self.state
        ack = await worker.heartbeat(refs)
        gone = {(ref.job_id, ref.stage, ref.fence) for ref in ack.lost}
        cancelled = {(ref.job_id, ref.stage, ref.fence) for ref in ack.cancelled}
        for ref in refs:
            row = before.leases.get(ref[0])
            renewed = row is not None and _has(row, ref, worker)
            assert renewed == (ref not in gone | cancelled), "a heartbeat renews exactly what it names and still has"
            if renewed:
                self.renewed[ref] = self.house.clock.now()
            else:
                assert (ref in cancelled) == (before.jobs[ref[0]].state is JobState.CANCELLED)

    # --- outputs ----------------------------------------------------------------------------------------------------

    @deed(2)
    def upload(self, a: int, b: int, c: int) -> Work | None:
        found = self.lease(a)
        return self._upload(found[1], b % 3, c % 2, self.assets(c)) if found else None

    @deed()
    def upload_late(self, a: int, b: int, c: int) -> Work | None:
        """Upload under a lease that may be anybody's by now."""
        leased = self.old_lease(a)
        return self._upload(leased, b % 3, c % 2, self.assets(c)) if leased else None

    async def _upload(self, leased: Leased, index: int, salt: int, service: Running) -> None:
        (job_id, _, fence), before = leased.ref, self.state
        try:
            await self.workers[0].upload(service, leased, index, salt)
        except AtelierError as error:
            assert error.reason in _REFUSALS, error
            if error.reason is ErrorReason.ALREADY_SETTLED:
                assert job_id in before.settlements
            elif error.reason is ErrorReason.OUT_OF_RANGE:
                assert index >= len(before.jobs[job_id].outputs)
            return
        assert job_id not in before.settlements, "a settled job accepts no further upload"
        self.watcher.digests[job_id, fence, index].add(leased.digests[index])

    # --- outcomes ---------------------------------------------------------------------------------------------------

    @deed(5)
    def report(self, a: int, b: int, c: int) -> Work | None:
        found = self.lease(a)
        return self.say_outcome(*found, _RESULTS[b]) if found else None

    @deed(2)
    def report_late(self, a: int, b: int, c: int) -> Work | None:
        """Report under a lease that is over, or somebody else's."""
        leased, worker = self.old_lease(a), self.workers[b % 2]
        if leased is None or not worker.connected:
            return None
        return self.say_outcome(worker, leased, _RESULTS[c])

    @deed(2)
    def report_again(self, a: int, b: int, c: int) -> Work | None:
        """Send an outcome again, or somebody else's."""
        said = [outcome for worker in self.workers for outcome in worker.said]
        worker = self.workers[b % 2]
        return self._send(worker, said[a % len(said)], None) if said and worker.connected else None

    async def say_outcome(self, worker: Worker, leased: Leased, result: str) -> None:
        """Upload what is missing for a result, and send its outcome."""
        generates = leased.message.spec.kind == job_pb2.STAGE_KIND_GENERATE
        if generates and result in ("good", "partial", "undeclared"):
            for index in range(leased.quantity if result == "good" else 1):
                if index not in leased.receipts:
                    await self._upload(leased, index, 0, self.assets(0))
        name = f"{worker.name}-{sum(len(each.said) for each in self.workers)}"
        outcome = pb.Outcome(ref=to_message(leased.ref), completion_id=name, engine="model")
        if result in ("retryable", "permanent"):
            failure = job_pb2.Failure(reason=error_pb2.ERROR_REASON_ENGINE_FAILED, message="It broke.")
            outcome.failure.CopyFrom(pb.StageFailure(failure=failure, retryable=result == "retryable"))
        elif result == "stopped":
            outcome.cancelled.SetInParent()
        elif not generates:
            outcome.text = "" if result == "nothing" else "a better prompt"
        else:
            outcome.outputs.SetInParent()
            self._fill(outcome, leased, result)
        await self._send(worker, outcome, result)

    def _fill(self, outcome: pb.Outcome, leased: Leased, result: str) -> None:
        """Put receipts into an outcome: the worker's own, or those of a liar."""
        if result == "forged":
            others = [one for worker in self.workers for past in worker.past for one in past.receipts.values()]
            mine = set(leased.receipts.values())
            forged = next((receipt for receipt in others if receipt not in mine), "not a receipt")
            outcome.outputs.outputs.add(asset_index=0, receipt=forged)
        elif result != "nothing":
            for index, receipt in list(leased.receipts.items())[: 1 if result == "partial" else None]:
                outcome.outputs.outputs.add(asset_index=index, receipt=receipt)
        if result == "undeclared":
            outcome.outputs.outputs.add(asset_index=7, receipt=next(iter(leased.receipts.values()), ""))

    async def _send(self, worker: Worker, outcome: pb.Outcome, result: str | None) -> None:
        ref = (outcome.ref.job_id, outcome.ref.stage, outcome.ref.fence)
        job = self.state.jobs[ref[0]]
        known = [row.completion_id for row in self.state.outcomes if (row.job_id, row.stage) == ref[:2]]
        if outcome.completion_id in known:
            expected = "duplicate"
        else:
            expected = "recorded" if is_current(job, ref, worker) else "stale"
        if expected == "recorded":
            self.began.add(ref)
        status = await worker.report(outcome)
        assert status == expected, "an outcome is recorded once, and iff its fence is current"
        self.seen[status] += 1
        self.seen["recorded, once lost"] += status == "recorded" and job.state is JobState.QUEUED
        after = (await self.look()).jobs[ref[0]]
        if status != "recorded":
            assert after == job, "a repeat and an old fence change nothing"
            return
        if outcome.WhichOneof("result") == "cancelled":
            self.began.discard(ref)
        if result is not None:
            self._check_recorded(job.begun(), after, outcome, result)

    def _check_recorded(self, before: Job, after: Job, outcome: pb.Outcome, result: str) -> None:
        kind = outcome.WhichOneof("result")
        told = [each for each in outcome.outputs.outputs if each.asset_index < len(before.outputs)]
        good = {each.asset_index: each.receipt for each in told if self._proves(each, outcome.ref)}
        if kind == "outputs" and good:
            assert after.state is JobState.PUBLISHING
            delivered = [output for output in after.outputs if output.state is OutputState.DELIVERED]
            assert {each.asset_index: each.receipt for each in delivered} == good, "no receipt, no output"
        elif kind == "text" and outcome.text:
            last = before.stage + 1 == len(before.stages)
            assert after.state is (JobState.SUCCEEDED if last else JobState.QUEUED)
            assert after.enhanced_prompt == outcome.text
        elif kind == "cancelled":
            assert after.state in (JobState.QUEUED, JobState.FAILED)
        else:
            self._check_failed(before, after, retryable=result != "permanent")

    def _check_failed(self, before: Job, after: Job, *, retryable: bool) -> None:
        goes_on = before.current.kind is StageKind.ENHANCE and before.warn_on_enhancement_failure
        spent = before.current.attempt >= MAX_ATTEMPTS or before.leases >= MAX_LEASES
        if retryable and not spent:
            self.seen["retry"] += 1
            assert (after.state, after.stage) == (JobState.QUEUED, before.stage), "it has attempts left"
            assert self._looked is not None
            assert self._looked.queue[before.job_id].available_at > self.house.clock.now(), "it waits before a retry"
        elif goes_on and before.stage + 1 < len(before.stages):
            self.seen["went on"] += 1
            assert (after.state, after.stage) == (JobState.QUEUED, before.stage + 1)
            assert any(warning.code == "enhancement_failed" for warning in after.warnings)
        else:
            assert after.state is JobState.FAILED, "what cannot be repeated is not, and a poison job stops"

    def _proves(self, told: pb.OutputResult, ref: pb.LeaseRef) -> bool:
        try:
            receipt = self.house.capabilities.verify_receipt(told.receipt)
        except AtelierError:
            return False
        said = (receipt.job_id, receipt.stage, receipt.fence, receipt.asset_index)
        return said == (ref.job_id, ref.stage, ref.fence, told.asset_index)


def _has(row: Any, ref: Ref, worker: Worker) -> bool:
    return bool((row.job_id, row.stage, row.fence, row.holder) == (*ref, worker.holder))

"""A worker that lies: it reports twice, late, with an old fence, with forged receipts, and for somebody else's job.

It speaks the protocol on bare stubs, and takes leases that it fulfils in the end, so that what it did wrong is the lie
alone. Each of its outcomes is noted with the answers that are right.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from atelier.router.v1 import job_pb2
from atelier.type.v1 import error_pb2
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2_grpc
from atelier_worker.patience import Patience
from atelier_worker.uploads import Transfers
from faults.engine import mark_of, png
from faults.evidence import Evidence, Report
from service_kit.capabilities import Capabilities, Receipt
from service_kit.channels import connect, key_tokens
from service_kit.clock import SystemClock
from service_kit.ids import new_id
from service_kit.key_types import MacKey
from service_kit.secret import Secret

# The beginning of its workers' names; each lie is a worker of its own, so that two at a time do not fence each other.
NAME = "hostile"
_BEAT_S = 0.4
_ANSWER_S = 6.0
_SIZE = (200, 170)
_PLAN = re.compile(r"plan=(\d+) .*refused=(-?\d+) doomed=(\d)")


class Ended(Exception):
    """The session ended before the behaviour was done; it is begun again in a new one."""


@dataclass(slots=True)
class _Session:
    """One stream to a router."""

    call: Any
    upload_endpoint: str
    leases: asyncio.Queue[pb.Lease] = field(default_factory=lambda: asyncio.Queue(8))
    answers: dict[str, asyncio.Future[str]] = field(default_factory=dict)
    held: list[pb.LeaseRef] = field(default_factory=list)

    async def send(self, **message: Any) -> None:
        try:
            await self.call.write(pb.WorkRequest(**message))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise Ended from error

    async def read(self) -> None:
        with suppress(grpc.aio.AioRpcError):
            async for message in self.call:
                if message.HasField("lease"):
                    self.leases.put_nowait(message.lease)
                elif message.HasField("outcome_ack"):
                    answer = self.answers.get(message.outcome_ack.completion_id)
                    if answer is not None and not answer.done():
                        status = pb.OutcomeStatus.Name(message.outcome_ack.status)
                        answer.set_result(status.removeprefix("OUTCOME_STATUS_"))
        for answer in self.answers.values():
            if not answer.done():
                answer.set_result("CLOSED")

    async def beat(self) -> None:
        with suppress(Ended):
            while True:
                await self.send(heartbeat=pb.Heartbeat(leases=self.held))
                await asyncio.sleep(_BEAT_S)

    async def lease(self) -> pb.Lease:
        """Ask for one lease and acknowledge it."""
        await self.send(credits=pb.Credits(free=1))
        lease = await self._or_ended(self.leases.get())
        self.held.append(lease.ref)
        await self.send(lease_ack=pb.LeaseAck(ref=lease.ref))
        return lease

    async def report(self, outcome: pb.Outcome) -> str:
        """Send an outcome and return the answer; `CLOSED` when the session ended instead."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.answers[outcome.completion_id] = answer
        await self.send(outcome=outcome)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError:
            raise Ended from None

    async def _or_ended(self, wanted: Any) -> pb.Lease:
        waiting = asyncio.ensure_future(wanted)
        closed = asyncio.ensure_future(self.call.code())
        done, _ = await asyncio.wait((waiting, closed), return_when=asyncio.FIRST_COMPLETED)
        if waiting not in done:
            waiting.cancel()
            raise Ended
        closed.cancel()
        lease: pb.Lease = waiting.result()
        return lease


class HostileWorker:
    """Does one lie after the other."""

    def __init__(self, target: str, key: Secret, evidence: Evidence, database_url: str) -> None:
        """Connect to `target`. Fences of others are read from the database: an attacker may have guessed them."""
        self._target = target
        self._key = key
        self._evidence = evidence
        self._database_url = database_url
        self._name = NAME
        self._ring = [MacKey("forged", b"nobody's secret, but long enough for HS256")]

    async def do(self, behaviour: str) -> str:
        """Lie once, in as many sessions as it takes. Returns what was done. The caller has a deadline."""
        lie = getattr(self, f"_{behaviour}")
        self._name = f"{NAME}-{behaviour}-{new_id()}"
        while True:
            try:
                return str(await lie())
            except (Ended, grpc.aio.AioRpcError):
                await asyncio.sleep(0.2)

    async def _report_twice(self) -> str:
        async with self._session() as session:
            lease = await session.lease()
            outcome = await self._honest(session, lease)
            first = await self._tell(session, "twice: first", outcome, ["RECORDED", "STALE"])
            again = ["DUPLICATE"] if first == "RECORDED" else ["STALE", "DUPLICATE"]
            await self._tell(session, "twice: the same again", outcome, again)
            other = pb.Outcome(ref=lease.ref, completion_id=new_id(), failure=_permanent())
            await self._tell(session, "twice: another outcome", other, ["STALE"])
            return f"{lease.ref.job_id}: {first}"

    async def _report_late(self) -> str:
        async with self._session(beats=False) as session:
            lease = await session.lease()
            outcome = await self._honest(session, lease)
            ttl_s = lease.ttl.ToTimedelta().total_seconds()
        # Not a beat for longer than the lease lives; a new session, as a worker that was away.
        await asyncio.sleep(ttl_s * 1.5)
        while True:
            try:
                async with self._session() as session:
                    # Nobody else may have been free to take it: then the old holder may still record.
                    answer = await self._tell(session, "late", outcome, ["STALE", "RECORDED"])
                    return f"{lease.ref.job_id}: {answer}"
            except (Ended, grpc.aio.AioRpcError):
                await asyncio.sleep(0.2)

    async def _report_old_fence(self) -> str:
        async with self._session() as session:
            lease = await session.lease()
            outcome = await self._honest(session, lease)
            old = pb.Outcome()
            old.CopyFrom(outcome)
            old.completion_id = new_id()
            old.ref.fence -= 1
            await self._tell(session, "old fence", old, ["STALE"])
            answer = await self._tell(session, "old fence: then the right one", outcome, ["RECORDED", "STALE"])
            return f"{lease.ref.job_id}: {answer}"

    async def _report_forged(self) -> str:
        async with self._session() as session:
            lease = await session.lease()
            outputs = [
                pb.OutputResult(asset_index=index, receipt=self._forged(lease, index))
                for index in range(lease.spec.settings.quantity)
            ]
            forged = pb.Outcome(ref=lease.ref, completion_id=new_id(), outputs=pb.OutputManifest(outputs=outputs))
            # Recorded as failed at each index, which is a retryable failure: the job goes to another worker.
            answer = await self._tell(session, "forged receipt", forged, ["RECORDED", "STALE"])
            return f"{lease.ref.job_id}: {answer}"

    async def _report_foreign(self) -> str:
        async with self._session() as session:
            lease = await session.lease()
            outcome = await self._honest(session, lease)
            foreign = await self._foreign_lease()
            stolen = pb.Outcome()
            stolen.CopyFrom(outcome)
            stolen.completion_id = new_id()
            stolen.ref.CopyFrom(foreign)
            await self._tell(session, "foreign job: with a receipt", stolen, ["STALE", "CLOSED"])
            killing = pb.Outcome(ref=foreign, completion_id=new_id(), failure=_permanent())
            await self._tell(session, "foreign job: a failure", killing, ["STALE", "CLOSED"])
            await self._tell(session, "foreign job: then its own", outcome, ["RECORDED", "STALE", "CLOSED"])
            return f"{foreign.job_id} of another worker"

    async def _tell(self, session: _Session, behaviour: str, outcome: pb.Outcome, expected: list[str]) -> str:
        answer = await session.report(outcome)
        ref = outcome.ref
        # A router that dies in between closes the session as well; then nothing was answered, and nothing is proved.
        self._evidence.reports.append(Report(behaviour, ref.job_id, ref.fence, answer, [*expected, "CLOSED"]))
        return answer

    @asynccontextmanager
    async def _session(self, *, beats: bool = True) -> AsyncIterator[_Session]:
        identity = connect(self._target)
        channel = connect(self._target, tokens=key_tokens(identity, self._key))
        tasks: list[asyncio.Task[None]] = []
        call = worker_service_pb2_grpc.WorkerServiceStub(channel).Work()
        try:
            async with asyncio.timeout(_ANSWER_S):
                hello = pb.Hello(
                    worker_id=self._name, instance_id=new_id(), worker_types=["sdxl"], slots=1, version="1"
                )
                await call.write(pb.WorkRequest(hello=hello))
                welcome = await call.read()
            if not isinstance(welcome, pb.WorkResponse):
                raise Ended
            session = _Session(call, welcome.welcome.upload_endpoint)
            tasks = [asyncio.create_task(session.read())]
            if beats:
                tasks.append(asyncio.create_task(session.beat()))
            yield session
        except (TimeoutError, asyncio.InvalidStateError) as error:
            raise Ended from error
        finally:
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(channel.close(), identity.close())

    async def _honest(self, session: _Session, lease: pb.Lease) -> pb.Outcome:
        """Do what the lease asks for, as the engine would, and return the outcome."""
        found = _PLAN.search(lease.spec.prompt)
        number, refused, doomed = (int(text) for text in found.groups()) if found else (-1, -1, 0)
        if doomed:
            return pb.Outcome(ref=lease.ref, completion_id=new_id(), failure=_permanent())
        outputs = []
        channel = connect(session.upload_endpoint)
        try:
            with tempfile.TemporaryDirectory() as folder:
                for index in range(lease.spec.settings.quantity):
                    if index == refused:
                        outputs.append(pb.OutputResult(asset_index=index, failure=_permanent().failure))
                        continue
                    path = Path(folder) / f"{index}.png"
                    path.write_bytes(png(*_SIZE, mark_of(number, index)))
                    transfers = Transfers(channel, lease.token, Patience(limit=timedelta(seconds=10)))
                    receipt = await transfers.upload_output(index, path, {})
                    outputs.append(pb.OutputResult(asset_index=index, receipt=receipt))
        except Exception as error:
            raise Ended from error
        finally:
            await channel.close()
        manifest = pb.OutputManifest(outputs=outputs)
        return pb.Outcome(ref=lease.ref, completion_id=new_id(), outputs=manifest, engine=NAME)

    def _forged(self, lease: pb.Lease, index: int) -> str:
        """Return a receipt that is right but for the key that signed it."""
        ref = lease.ref
        receipt = Receipt(
            upload_id=new_id(),
            job_id=ref.job_id,
            stage=ref.stage,
            fence=ref.fence,
            asset_index=index,
            bucket="workspace-temp",
            key=f"forged/{ref.job_id}/{index}",
            generation="1",
            sha256="0" * 64,
            size_bytes=100_000,
            content_type="image/png",
            width=200,
            height=170,
            duration_ms=None,
            renditions=(),
        )
        return Capabilities(self._ring, SystemClock()).sign_receipt(receipt)

    async def _foreign_lease(self) -> pb.LeaseRef:
        """Return a lease of another worker; waits until there is one."""
        import psycopg

        query = (
            "SELECT job_id, stage, fence FROM router.leases WHERE acknowledged AND holder NOT LIKE '%hostile%' LIMIT 1"
        )
        while True:
            with suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(self._database_url, connect_timeout=5) as connection:
                    row = await (await connection.execute(query)).fetchone()
                if row is not None:
                    return pb.LeaseRef(job_id=row[0], stage=row[1], fence=row[2])
            await asyncio.sleep(0.02)


def _permanent() -> pb.StageFailure:
    failure = job_pb2.Failure(
        reason=error_pb2.ERROR_REASON_ENGINE_FAILED, message=f"said a liar at {datetime.now(UTC):%H:%M:%S}"
    )
    return pb.StageFailure(failure=failure, retryable=False)

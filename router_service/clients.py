"""The calls to the asset service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

import grpc

from atelier.asset.v1 import asset_control_service_pb2 as pb
from atelier.asset.v1 import asset_control_service_pb2_grpc
from router_service import wire
from router_service.domain import Job, OutputState
from router_service.generation_domain import Reference
from router_service.settlement import Answer, Postponed, Refused, Settled
from service_kit.identity import Owner
from service_kit.rpc_errors import translated

_DEADLINE_S = 30.0
# Shorter than the outbox claims what it sends for.
_SETTLE_DEADLINE_S = 10.0
_MOST_SETTLEMENTS = 256
_MOST_SETTLE_BYTES = 7 << 20


class AssetClient:
    """What the router says to the asset service. Every call may be repeated."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Use a channel that carries the router's own identity."""
        self._stub = asset_control_service_pb2_grpc.AssetControlServiceStub(channel)

    async def take_hold(
        self, job_id: str, owner: Owner, references: Sequence[Reference], ttl: timedelta
    ) -> tuple[Reference, ...]:
        """Hold the references of a job and say where their bytes lie. Raises NotFound when one is not the owner's."""
        asset_ids = list(dict.fromkeys(reference.asset_id for reference in references))
        request = pb.TakeHoldRequest(holder=_holder(job_id), owner=wire.owner_to_proto(owner), asset_ids=asset_ids)
        request.ttl.FromTimedelta(ttl)
        with translated():
            reply = await self._stub.TakeHold(request, timeout=_DEADLINE_S)
        held = {entry.asset.asset_id: entry for entry in reply.held}
        return tuple(wire.reference_from_held(reference, held[reference.asset_id]) for reference in references)

    async def confirm_hold(self, job: Job) -> None:
        """Make the holds on a job's references last until its settlement. Raises NotFound when one is gone."""
        asset_ids = list(dict.fromkeys(reference.asset_id for reference in job.references))
        request = pb.ConfirmHoldRequest(
            holder=_holder(job.job_id), owner=wire.owner_to_proto(job.owner), asset_ids=asset_ids
        )
        with translated():
            await self._stub.ConfirmHold(request, timeout=_SETTLE_DEADLINE_S)

    async def settle(self, jobs: Sequence[Job]) -> list[Answer]:
        """Say how jobs ended; publish the outputs that they delivered. Returns an answer for each, in order."""
        answers: list[Answer] = []
        for settlements in _parts([_settlement(job) for job in jobs]):
            with translated():
                reply = await self._stub.SettleJobs(
                    pb.SettleJobsRequest(settlements=settlements), timeout=_SETTLE_DEADLINE_S
                )
            answers += [_answer(result) for result in reply.results]
        return answers


def _settlement(job: Job) -> pb.SettleRequest:
    winners = [
        pb.Winner(
            asset_index=output.asset_index,
            receipt=output.receipt,
            provenance=wire.provenance_to_proto(job, output.asset_index),
        )
        for output in job.outputs
        if output.state is OutputState.DELIVERED
    ]
    return pb.SettleRequest(job_id=job.job_id, owner=wire.owner_to_proto(job.owner), winners=winners)


def _parts(settlements: Sequence[pb.SettleRequest]) -> Iterator[list[pb.SettleRequest]]:
    """Yield the settlements in requests that the asset service takes. One that is too large by itself goes alone."""
    part: list[pb.SettleRequest] = []
    part_bytes = 0
    for settlement in settlements:
        size_bytes = settlement.ByteSize()
        if part and (len(part) == _MOST_SETTLEMENTS or part_bytes + size_bytes > _MOST_SETTLE_BYTES):
            yield part
            part, part_bytes = [], 0
        part.append(settlement)
        part_bytes += size_bytes
    if part:
        yield part


def _answer(result: pb.SettleJobsResult) -> Answer:
    kind = result.WhichOneof("outcome")
    if kind == "settled":
        return Settled(tuple(result.settled.published), tuple(result.settled.lost))
    if kind == "refused":
        return Refused(result.refused.message)
    return Postponed(result.postponed.message)


def _holder(job_id: str) -> str:
    return f"job:{job_id}"

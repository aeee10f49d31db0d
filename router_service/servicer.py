"""`RouterService`: decode, one call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from atelier.router.v1 import router_service_pb2 as pb
from atelier.router.v1 import router_service_pb2_grpc
from router_service import model_wire, wire
from router_service.admission import Admission
from router_service.domain import FINAL
from router_service.ending import Ending
from router_service.erasure import Erasure
from router_service.jobs import JobViews
from router_service.pools import Pools
from router_service.registry import ModelRegistry
from router_service.storage.jobs import Wanted
from router_service.watch import Change, Opening, Snapshot, Watch
from router_service.webhooks import Webhooks
from service_kit.events.watching import STREAM_STATE, ends_when_told, wants_news_alone
from service_kit.idempotency import is_retry, request_digest
from service_kit.identity import Owner, current_caller

_DEFAULT_PAGE = 50


class RouterServicer(router_service_pb2_grpc.RouterServiceServicer):
    """Jobs and models over gRPC."""

    def __init__(
        self,
        *,
        admission: Admission,
        ending: Ending,
        views: JobViews,
        watch: Watch,
        registry: ModelRegistry,
        pools: Pools,
        erasure: Erasure,
        webhooks: Webhooks,
    ) -> None:
        self._webhooks = webhooks
        self._erasure = erasure
        self._admission = admission
        self._ending = ending
        self._views = views
        self._watch = watch
        self._registry = registry
        self._pools = pools

    async def GenerateContent(self, request: pb.GenerateContentRequest, context: Any) -> pb.GenerateContentResponse:
        metadata = context.invocation_metadata() or ()
        asked = wire.request_from_proto(request, request_digest(metadata))
        self._webhooks.check(asked.webhook)
        caller = current_caller()
        job = await self._admission.admit(
            asked,
            await self._registry.table(),
            caller.owner,
            key_id=caller.session_of or caller.key_id,
            is_retry=is_retry(metadata),
        )
        return wire.accepted_to_proto(job)

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
        job = await self._views.get(request.job_id, current_caller().owner)
        return pb.GetJobResponse(job=wire.job_to_proto(job, self._pools))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        page = await self._views.list(
            current_caller().owner,
            Wanted(
                state=wire.state_from_proto(request.state),
                format=wire.format_from_proto(request.format),
                oldest_first=request.oldest_first,
            ),
            page_size=request.page_size if request.HasField("page_size") else _DEFAULT_PAGE,
            page_token=request.page_token,
            after_job_id=request.after_job_id,
        )
        jobs = [wire.job_to_proto(job, self._pools) for job in page.jobs]
        return pb.ListJobsResponse(jobs=jobs, next_page_token=page.next_page_token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        job = await self._ending.cancel(request.job_id, current_caller().owner)
        return pb.CancelJobResponse(job=wire.job_to_proto(job, self._pools))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Any) -> pb.DeleteJobResponse:
        await self._ending.delete(request.job_id, current_caller().owner)
        return pb.DeleteJobResponse()

    async def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> AsyncIterator[pb.WatchJobResponse]:
        owner = current_caller().owner
        opening = await self._watch.open_job(request.job_id, owner, request.after)
        await _announce(context, opening)
        metadata = context.invocation_metadata()
        once, only_news = ends_when_told(metadata), wants_news_alone(metadata)
        async for told in self._watch.follow_job(request.job_id, owner, opening, once=once):
            if isinstance(told, Snapshot):
                if only_news and told.jobs[0].state not in FINAL:
                    continue
                snapshot = wire.job_to_proto(told.jobs[0], self._pools)
                yield pb.WatchJobResponse(cursor=told.cursor, snapshot=snapshot)
            elif isinstance(told, Change):
                yield pb.WatchJobResponse(cursor=told.cursor, state=wire.job_to_proto(told.job, self._pools))
            else:
                yield pb.WatchJobResponse(**wire.report_to_proto(told))  # type: ignore[arg-type]

    async def WatchJobs(self, request: pb.WatchJobsRequest, context: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        owner = current_caller().owner
        opening = await self._watch.open_owner(owner, request.after)
        await _announce(context, opening)
        once = ends_when_told(context.invocation_metadata())
        async for told in self._watch.follow_owner(owner, opening, once=once):
            if isinstance(told, Snapshot):
                jobs = [wire.job_to_proto(job, self._pools) for job in told.jobs]
                yield pb.WatchJobsResponse(cursor=told.cursor, snapshot=pb.JobsSnapshot(jobs=jobs, more=told.more))
            elif isinstance(told, Change):
                yield pb.WatchJobsResponse(cursor=told.cursor, state=wire.job_to_proto(told.job, self._pools))
            else:
                yield pb.WatchJobsResponse(**wire.report_to_proto(told))  # type: ignore[arg-type]

    async def EraseOwner(self, request: pb.EraseOwnerRequest, context: Any) -> pb.EraseOwnerResponse:
        caller = current_caller()
        left = await self._erasure.erase(caller, Owner(request.tenant_id or caller.owner.tenant_id, request.owner_id))
        return pb.EraseOwnerResponse(done=not left, left=left)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        table = await self._registry.table()
        return pb.ListModelsResponse(models=[model_wire.model_to_proto(row, self._pools) for row in table.rows])

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Any) -> pb.ListWorkersResponse:
        size = request.page_size if request.HasField("page_size") else None
        workers, next_page_token = self._pools.page(size, request.page_token)
        return pb.ListWorkersResponse(
            workers=[model_wire.worker_to_proto(worker) for worker in workers], next_page_token=next_page_token
        )

    async def PutModel(self, request: pb.PutModelRequest, context: Any) -> pb.PutModelResponse:
        row = await self._registry.put(model_wire.model_from_proto(request.model))
        return pb.PutModelResponse(model=model_wire.model_to_proto(row, self._pools))

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Any) -> pb.DeleteModelResponse:
        await self._registry.delete(request.name)
        return pb.DeleteModelResponse()


async def _announce(context: Any, opening: Opening) -> None:
    """Say at once whether anything will come, before the first event does."""
    await context.send_initial_metadata(((STREAM_STATE, "ended" if opening.ended else "open"),))

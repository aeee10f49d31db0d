"""The RPCs that dialects are made of, as typed calls for the client of one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from atelier.asset.v1 import asset_pb2, asset_service_pb2
from atelier.router.v1 import job_pb2, model_pb2, router_service_pb2, webhook_service_pb2
from gateway.backends import Backends, Metadata
from gateway.http_rules import RpcRoute
from gateway.status import of_rpc
from gateway.streams import Access, OpenWatches, Watch, is_expired
from service_kit.errors import AtelierError, DeadlineExceeded, NotFound
from service_kit.idempotency import REQUEST_DIGEST, RETRY_COUNT

_ROUTER = "/atelier.router.v1.RouterService/"
_WEBHOOKS = "/atelier.router.v1.WebhookService/"
_ASSETS = "/atelier.asset.v1.AssetService/"
_ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)

_Answer = TypeVar("_Answer", bound=Message)


def has_ended(job: job_pb2.Job) -> bool:
    """Tell whether a job will not change any more."""
    return job.state in _ENDED


class Calls:
    """Which RPC is where: the same for every request."""

    def __init__(self, backends: Backends, routes: Iterable[RpcRoute], limit: timedelta) -> None:
        """Call the RPCs of `routes`; each call takes `limit` at most."""
        self.backends = backends
        self.limit = limit
        self.watches = OpenWatches()
        self._routes = {route.grpc_path: route for route in routes}

    def route(self, path: str) -> RpcRoute:
        """Return the route of an RPC."""
        return self._routes[path]


class Jobs:
    """Jobs, assets and models of the client of one request."""

    def __init__(self, calls: Calls, access: Access) -> None:
        """Call with the identity that `access` makes."""
        self._calls = calls
        self._access = access

    async def submit(
        self,
        request: router_service_pb2.GenerateContentRequest,
        *,
        digest: str,
        headers: Mapping[str, str],
        is_retry: bool = False,
    ) -> router_service_pb2.GenerateContentResponse:
        """Submit a job, or return the one that the same request became before.

        `Idempotency-Key` is honoured, and so is `x-stainless-retry-count`: a retry is matched by `digest`, which names
        what the client sent. `is_retry` says that it is one where the client did not.

        Raises:
            AtelierError: it is refused.
        """
        key = headers.get("idempotency-key", "")
        if key:
            request.idempotency_key = key
        count = "1" if is_retry else headers.get("x-stainless-retry-count", "")
        told = [(REQUEST_DIGEST, digest)]
        if count.isascii() and count.isdecimal():
            told.append((RETRY_COUNT, count))
        answer = router_service_pb2.GenerateContentResponse
        return await self._call(f"{_ROUTER}GenerateContent", request, answer, tuple(told))

    async def get(self, job_id: str) -> job_pb2.Job:
        """Return a job. Raises NotFound when there is none, or somebody else owns it."""
        request = router_service_pb2.GetJobRequest(job_id=_checked("job", job_id))
        return (await self._call(f"{_ROUTER}GetJob", request, router_service_pb2.GetJobResponse)).job

    async def find(self, request: router_service_pb2.ListJobsRequest) -> router_service_pb2.ListJobsResponse:
        """Return a page of jobs. Raises InvalidArgument for an unknown page."""
        return await self._call(f"{_ROUTER}ListJobs", request, router_service_pb2.ListJobsResponse)

    async def cancel(self, job_id: str) -> job_pb2.Job:
        """Cancel a job that waits or runs, and return it; one that has ended is returned as it is.

        Raises:
            NotFound: there is none.
            FailedPrecondition: it is too late: its assets are being published.
        """
        request = router_service_pb2.CancelJobRequest(job_id=_checked("job", job_id))
        return (await self._call(f"{_ROUTER}CancelJob", request, router_service_pb2.CancelJobResponse)).job

    async def delete(self, job_id: str) -> None:
        """Remove a job that has ended. Raises NotFound, or FailedPrecondition when it has not ended."""
        request = router_service_pb2.DeleteJobRequest(job_id=_checked("job", job_id))
        await self._call(f"{_ROUTER}DeleteJob", request, router_service_pb2.DeleteJobResponse)

    async def watch(self, job_id: str, how: str = "") -> AsyncGenerator[router_service_pb2.WatchJobResponse, None]:
        """Give the events of a job, the first with the job as it is, until it has ended. Close what this returns.

        With `NEWS` the job as it is comes only when it has ended.

        Raises:
            AtelierError: there is no such job, the stream broke, the key was revoked, or the gateway closes.
        """
        request = router_service_pb2.WatchJobRequest(job_id=_checked("job", job_id))
        watch = Watch(self._calls.backends, self._calls.route(f"{_ROUTER}WatchJob"), request, self._access, how=how)
        with self._calls.watches.follow(watch):
            try:
                while await watch.open(self._calls.limit):
                    try:
                        async with aclosing(watch.messages()) as messages:
                            async for message in messages:
                                if isinstance(message, router_service_pb2.WatchJobResponse):
                                    yield message
                        return
                    except AtelierError as error:
                        if not is_expired(error):
                            raise
            finally:
                watch.cancel()

    async def wait(self, job_id: str, limit: timedelta) -> job_pb2.Job:
        """Return a job when it has ended, or as it is when `limit` is over.

        Raises:
            AtelierError: there is no such job, or the stream broke.
        """
        job: job_pb2.Job | None = None
        try:
            async with asyncio.timeout(limit.total_seconds()), aclosing(self.watch(job_id)) as events:
                async for event in events:
                    job = job_of(event) or job
                    if job is not None and has_ended(job):
                        return job
        except TimeoutError:
            if job is None:
                raise DeadlineExceeded from None
        return job or await self.get(job_id)

    async def assets(self, job_id: str) -> list[asset_pb2.Asset]:
        """Return the assets of a job with signed addresses, by their index."""
        request = asset_service_pb2.ListAssetsRequest(job_id=job_id, page_size=200)
        answer = await self._call(f"{_ASSETS}ListAssets", request, asset_service_pb2.ListAssetsResponse)
        return sorted(answer.assets, key=lambda asset: asset.asset_index)

    async def find_assets(self, request: asset_service_pb2.ListAssetsRequest) -> asset_service_pb2.ListAssetsResponse:
        """Return a page of assets. Raises InvalidArgument for an unknown page."""
        return await self._call(f"{_ASSETS}ListAssets", request, asset_service_pb2.ListAssetsResponse)

    async def asset(self, asset_id: str) -> asset_pb2.Asset:
        """Return an asset with a signed address. Raises NotFound when there is none."""
        request = asset_service_pb2.GetAssetRequest(asset_id=_checked("asset", asset_id))
        return (await self._call(f"{_ASSETS}GetAsset", request, asset_service_pb2.GetAssetResponse)).asset

    async def discard(self, asset_ids: Iterable[str]) -> None:
        """Discard assets; those that are gone already are no error."""
        request = asset_service_pb2.DiscardAssetsRequest(asset_ids=list(asset_ids))
        if request.asset_ids:
            await self._call(f"{_ASSETS}DiscardAssets", request, asset_service_pb2.DiscardAssetsResponse)

    async def webhook_secret(self) -> str:
        """Return what the caller's webhooks are signed with. It is made when it is first asked for."""
        request = webhook_service_pb2.GetWebhookSecretRequest()
        answer = webhook_service_pb2.GetWebhookSecretResponse
        return (await self._call(f"{_WEBHOOKS}GetWebhookSecret", request, answer)).secret

    async def models(self) -> list[model_pb2.Model]:
        """Return the routing table."""
        request = router_service_pb2.ListModelsRequest()
        answer = await self._call(f"{_ROUTER}ListModels", request, router_service_pb2.ListModelsResponse)
        return list(answer.models)

    async def _call(self, path: str, request: Message, answer: type[_Answer], more: Metadata = ()) -> _Answer:
        entries = (*await self._access(), *more)
        try:
            found = await self._calls.backends.unary(self._calls.route(path), request, entries, self._calls.limit)
        except grpc.RpcError as error:
            raise of_rpc(error) from error
        if not isinstance(found, answer):
            raise TypeError(f"{path} does not answer {answer.DESCRIPTOR.full_name}")
        return found


def job_of(event: router_service_pb2.WatchJobResponse) -> job_pb2.Job | None:
    """Return the job that an event carries; None for what is no change of its state."""
    kind = event.WhichOneof("event")
    if kind == "snapshot":
        return event.snapshot
    return event.state if kind == "state" else None


def _checked(kind: str, object_id: str) -> str:
    """Return an id. One that is too long to be ours is unknown, not malformed: ids are opaque to clients."""
    if not 0 < len(object_id) <= 64:
        raise NotFound.of(kind, object_id)
    return object_id

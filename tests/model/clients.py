"""What owners do, and the library: submit, cancel, discard, hold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from atelier.asset.v1 import asset_control_service_pb2 as control_pb
from atelier.asset.v1 import asset_service_pb2
from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.type.v1 import generation_pb2, media_pb2
from router_service.domain import FINAL, Job, JobState
from service_kit.errors import AtelierError, ErrorReason, Unavailable
from service_kit.identity import Owner
from service_kit.ids import asset_id
from tests.model.house import Running
from tests.model.invariants import OWNERS
from tests.model.processes import Gone
from tests.model.world import Work, World, deed

_ROUTER = "/atelier.router.v1.RouterService/"
_ASSETS = "/atelier.asset.v1.AssetService/"
CONTROL = "/atelier.asset.v1.AssetControlService/"


class Clients(World):
    """Deeds of clients."""

    @deed(3)
    def submit(self, a: int, b: int, c: int) -> Work:
        return self.send([self.router(a)], a, b, c)

    @deed()
    def submit_at_once(self, a: int, b: int, c: int) -> Work:
        """Two clients send the same key at the same moment, to two replicas if there are two."""
        return self.send([self.router(0), self.router(1)], a, b, c % 3)

    async def send(self, routers: Sequence[Running], who: int, kind: int, key: int) -> None:
        """Submit one request to each of the routers."""
        self.submitted += 1
        is_repeat, before = False, len(self.state.holds)
        owner = OWNERS[who % 2]
        request = self._request(owner, kind, who)
        if key < 3:
            # A key that was used comes again with the same body, or, now and then, with this one.
            request.idempotency_key = f"{owner.owner_id}-{key}"
            known = self.bodies.get(request.idempotency_key)
            if known is not None and who < 10:
                request, is_repeat = pb.GenerateContentRequest.FromString(known[0]), True
        calls = [self.as_owner(router, _ROUTER + "GenerateContent", request, owner) for router in routers]
        replies = await asyncio.gather(*calls, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, pb.GenerateContentResponse):
                self._accepted(request, reply.job_id)
            elif isinstance(reply, AtelierError):
                self._refused(request, reply)
            elif not isinstance(reply, Gone):
                raise reply
        if is_repeat:
            assert len((await self.look()).holds) == before, "a repeat takes no hold of its own"

    def _request(self, owner: Owner, kind: int, quantity: int) -> pb.GenerateContentRequest:
        request = pb.GenerateContentRequest(
            prompt=f"picture {self.submitted}", model="sdxl", priority=self.submitted % 3
        )
        if kind == 0:
            request.enhancement_only = True
            return request
        request.format = generation_pb2.FORMAT_IMAGE
        request.quantity = 1 + quantity % 2
        if kind in (1, 2):
            request.enhance_prompt = True
            request.on_enhancement_failure = (
                pb.ON_ENHANCEMENT_FAILURE_WARN if kind == 1 else pb.ON_ENHANCEMENT_FAILURE_FAIL
            )
        if kind in (2, 3, 4, 5):
            reference = self.references[owner][quantity % len(self.references[owner])]
            request.reference_images.add(asset_id=reference, kind=generation_pb2.REFERENCE_KIND_STYLE)
        return request

    def _accepted(self, request: pb.GenerateContentRequest, job_id: str) -> None:
        if request.idempotency_key:
            body = request.SerializeToString()
            known = self.bodies.setdefault(request.idempotency_key, (body, job_id))
            assert known == (body, job_id), "one job for each idempotency key, and one body"
            self.seen["same key"] += job_id in self.jobs
        if job_id not in self.jobs:
            self.jobs.append(job_id)
        self.watcher.accepted.add(job_id)

    def _refused(self, request: pb.GenerateContentRequest, error: AtelierError) -> None:
        if error.reason is ErrorReason.IDEMPOTENCY_KEY_REUSED:
            # A crash may have kept us from hearing of the job that the key belongs to.
            known = self.bodies.get(request.idempotency_key)
            assert known is None or known[0] != request.SerializeToString()
            self.seen["key reused"] += 1
        elif error.reason is ErrorReason.NOT_FOUND:
            gone = [self.state.assets[each.asset_id].state != "available" for each in request.reference_images]
            assert any(gone), "a reference that its owner can see is not refused"
        else:
            assert isinstance(error, Unavailable), error
            assert request.reference_images, error

    @deed(2)
    def cancel(self, a: int, b: int, c: int) -> Work | None:
        job = self.job(a)
        return self.cancel_job(self.router(b), job) if job else None

    async def cancel_job(self, router: Running, before: Job) -> None:
        """Cancel a job, and judge the reply by what the job was."""
        request = pb.CancelJobRequest(job_id=before.job_id)
        try:
            reply = await self.as_owner(router, _ROUTER + "CancelJob", request, before.owner)
        except AtelierError as error:
            assert (error.reason, before.state) == (ErrorReason.TOO_LATE, JobState.PUBLISHING)
            self.seen["too late"] += 1
            return
        assert before.state is not JobState.PUBLISHING, "what is recorded cannot be cancelled"
        expected = before.state if before.state in FINAL else JobState.CANCELLED
        assert job_pb2.JobState.Name(reply.job.state) == f"JOB_STATE_{expected.name}"

    @deed(2)
    def discard(self, a: int, b: int, c: int) -> Work | None:
        """Discard an output, published or not yet."""
        job = self.job(a)
        return self._discard(self.assets(b), job.owner, asset_id(job.job_id, c % 2)) if job else None

    @deed()
    def discard_reference(self, a: int, b: int, c: int) -> Work:
        owner = OWNERS[a % 2]
        return self._discard(self.assets(b), owner, self.references[owner][c % len(self.references[owner])])

    async def _discard(self, service: Running, owner: Owner, asset: str) -> None:
        before = self.state
        staged = [row for row in before.uploads.values() if row.asset_id == asset and row.state != "deleting"]
        request = asset_service_pb2.DiscardAssetRequest(asset_id=asset)
        try:
            await self.as_owner(service, _ASSETS + "DiscardAsset", request, owner)
        except AtelierError as error:
            assert error.reason is ErrorReason.NOT_FOUND
            assert asset not in before.assets
            assert not staged
            return
        # Whatever becomes of its job, this asset is never seen from now on.
        self.watcher.gone.add(asset)
        self.seen["tombstone"] += asset not in before.assets

    @deed()
    def hold(self, a: int, b: int, c: int) -> Work | None:
        """The library holds an asset for its copy, or lets it go."""
        assets = sorted(self.state.assets)
        if not assets:
            return None
        asset = assets[a % len(assets)]
        return self.release(self.assets(b), f"save:{asset}") if c > 8 else self._hold(self.assets(b), asset)

    async def release(self, service: Running, holder: str) -> None:
        """End the holds of a holder."""
        await self.as_service(service, CONTROL + "ReleaseHold", control_pb.ReleaseHoldRequest(holder=holder))

    async def _hold(self, service: Running, asset: str) -> None:
        row = self.state.assets[asset]
        owner = media_pb2.Owner(tenant_id=row.tenant_id, owner_id=row.owner_id)
        take = control_pb.TakeHoldRequest(holder=f"save:{asset}", owner=owner, asset_ids=[asset])
        take.ttl.FromTimedelta(timedelta(minutes=2))
        try:
            await self.as_service(service, CONTROL + "TakeHold", take)
        except AtelierError as error:
            assert error.reason is ErrorReason.NOT_FOUND
            assert row.state != "available"
            return
        assert row.state in ("available", "hidden"), "what is gone cannot be held"

    @deed()
    def use_as_reference(self, a: int, b: int, c: int) -> Work | None:
        """From now on an owner starts from something that a job has made."""
        made = sorted(each for each, row in self.state.assets.items() if row.job_id and row.state == "available")
        if made:
            row = self.state.assets[made[a % len(made)]]
            self.references[Owner(row.tenant_id, row.owner_id)].append(row.asset_id)
        return None

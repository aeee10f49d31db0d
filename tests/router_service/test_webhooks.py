"""What the router does about webhooks: repetitions, late reports, secrets that change, owners that are erased."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from atelier.router.v1 import router_service_pb2 as pb
from atelier.router.v1 import webhook_service_pb2 as hooks
from atelier.router.v1 import webhook_service_pb2_grpc
from router_service.storage import Storage
from router_service.webhook_domain import HOLDS_BACK_FOR, RETRY_AFTER, DeliveryState, Report, retry_delay
from router_service.webhooks import Leased, Webhooks
from service_kit.destinations import Destinations
from service_kit.errors import FailedPrecondition, ResourceExhausted
from service_kit.identity import Owner
from service_kit.key_types import MacKey
from tests.router_service.support import Router

ADMIN = Owner("default", "admin")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
URL = "https://hooks.example/"
KEY, NEWER = MacKey("k1", b"1" * 32), MacKey("k2", b"2" * 32)


@pytest.fixture
async def webhooks(router: Router) -> AsyncIterator[Webhooks]:
    """Those of the running router's storage, with repetitions that are not spread."""
    yield Webhooks(router.service.storage, [KEY], Destinations(), lambda: 0.5)


async def cancelled(router: Router, **webhook: Any) -> str:
    accepted = await router.submit(webhook={"url": URL, **webhook})
    await router.jobs.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id))
    return accepted.job_id


async def leased(webhooks: Webhooks) -> Leased:
    (one,) = await webhooks.lease(limit=9, lease_for=MINUTE)
    return one


async def report(webhooks: Webhooks, one: Leased, status: int) -> None:
    await webhooks.report([Report(one.delivery.delivery_id, one.delivery.lease, status, "")])


async def test_a_delivery_is_repeated_over_hours_and_then_given_up(router: Router, webhooks: Webhooks) -> None:
    await cancelled(router)
    began, waits = router.clock.now(), []
    while found := await webhooks.lease(limit=9, lease_for=MINUTE):
        await report(webhooks, found[0], 503)
        (delivery,) = (await webhooks.list(ADMIN, job_id="", state=None, page_size=9, page_token="")).deliveries
        if delivery.due_at is not None:
            waits.append(delivery.due_at - router.clock.now())
            router.clock.advance(waits[-1])
    assert waits == list(RETRY_AFTER)
    assert timedelta(hours=15) < router.clock.now() - began < timedelta(hours=17)
    assert (delivery.state, delivery.attempts) == (DeliveryState.GIVEN_UP, len(RETRY_AFTER) + 1)
    assert delivery.last_error == "The receiver answered 503."
    again = await webhooks.redeliver(delivery.delivery_id, ADMIN)
    assert (again.state, again.tries) == (DeliveryState.PENDING, 0)
    await report(webhooks, await leased(webhooks), 200)
    assert await webhooks.lease(limit=9, lease_for=MINUTE) == []


def test_repetitions_are_spread_by_a_fifth() -> None:
    assert [retry_delay(1, chance) for chance in (0.0, 0.5, 1.0)] == [timedelta(seconds=s) for s in (4, 5, 6)]
    assert retry_delay(len(RETRY_AFTER) + 1, 0.5) is None


async def test_a_report_of_an_old_lease_changes_nothing(router: Router, webhooks: Webhooks) -> None:
    await cancelled(router)
    first = await leased(webhooks)
    router.clock.advance(MINUTE)
    second = await leased(webhooks)
    assert second.delivery.delivery_id == first.delivery.delivery_id
    await report(webhooks, first, 200)
    await webhooks.report([Report("none", 1, 200, "")])
    page = await webhooks.list(ADMIN, job_id="", state=DeliveryState.PENDING, page_size=9, page_token="")
    assert [one.attempts for one in page.deliveries] == [0]
    await report(webhooks, second, 200)
    await report(webhooks, second, 500)
    page = await webhooks.list(ADMIN, job_id="", state=DeliveryState.DELIVERED, page_size=9, page_token="")
    assert [one.attempts for one in page.deliveries] == [1]


async def test_events_are_told_once_and_in_the_state_of_then(router: Router, webhooks: Webhooks) -> None:
    one = await router.worker()
    accepted = await router.submit(webhook={"url": URL, "events": [3, 1, 2], "dialect": 4})
    lease = await one.take()
    await one.deliver(lease)
    await router.ended(accepted.job_id)
    told: list[Leased] = []
    while found := await webhooks.lease(limit=9, lease_for=MINUTE):
        told += found
        await report(webhooks, found[0], 200)
    # One after the other, however late they are.
    assert [each.delivery.event.value for each in told] == ["started", "output", "completed"]
    assert {each.delivery.dialect.value for each in told} == {"replicate"}
    assert [each.job.state.value for each in told] == ["running", "succeeded", "succeeded"]


async def test_what_a_receiver_does_not_take_holds_the_next_back_for_a_while_only(
    router: Router, webhooks: Webhooks
) -> None:
    one = await router.worker()
    accepted = await router.submit(webhook={"url": URL, "events": [1, 3]})
    await one.deliver(await one.take())
    await router.ended(accepted.job_id)
    for delay in RETRY_AFTER[: HOLDS_BACK_FOR - 1]:
        started = await leased(webhooks)
        assert started.delivery.event.value == "started"
        assert await webhooks.lease(limit=9, lease_for=MINUTE) == [], "the first is being posted"
        await report(webhooks, started, 503)
        assert await webhooks.lease(limit=9, lease_for=MINUTE) == [], "the first is due again soon"
        router.clock.advance(delay)
    await report(webhooks, await leased(webhooks), 503)
    completed = await leased(webhooks)
    assert completed.delivery.event.value == "completed"
    await report(webhooks, completed, 200)
    again = await webhooks.redeliver(completed.delivery.delivery_id, ADMIN)
    assert (await leased(webhooks)).delivery.delivery_id == again.delivery_id


async def test_an_old_secret_signs_for_a_day(router: Router, webhooks: Webhooks) -> None:
    old, since = await webhooks.secret(ADMIN)
    assert since == router.clock.now()
    assert (await webhooks.secret(ADMIN))[0] == old
    assert (await webhooks.secret(Owner("default", "bob")))[0] != old
    new, until = await webhooks.rotate(ADMIN)
    assert until == router.clock.now() + DAY
    await cancelled(router)
    assert (await leased(webhooks)).secrets == (new, old)
    router.clock.advance(DAY)
    assert (await leased(webhooks)).secrets == (new,)


async def test_old_secrets_are_few(webhooks: Webhooks) -> None:
    made = {(await webhooks.rotate(ADMIN))[0] for _ in range(4)}
    assert len(made) == 4
    with pytest.raises(ResourceExhausted, match="4 old secrets still sign"):
        await webhooks.rotate(ADMIN)


async def test_the_database_alone_makes_no_secret(router: Router, webhooks: Webhooks) -> None:
    secret, _ = await webhooks.secret(ADMIN)
    storage: Storage = router.service.storage
    other = Webhooks(storage, [MacKey("k1", b"x" * 32)], Destinations())
    assert (await other.secret(ADMIN))[0] != secret
    # After a change of the ring the old key makes the old secrets; without it they have to be rotated.
    assert (await Webhooks(storage, [NEWER, KEY], Destinations()).secret(ADMIN))[0] == secret
    without = Webhooks(storage, [NEWER], Destinations())
    with pytest.raises(FailedPrecondition, match="rotate the secret"):
        await without.secret(ADMIN)
    await cancelled(router)
    assert await without.lease(limit=9, lease_for=MINUTE) == [], "nothing is sent unsigned"
    new, _ = await without.rotate(ADMIN)
    router.clock.advance(MINUTE)
    assert (await leased(without)).secrets == (new,)


async def test_nothing_is_sent_for_an_erased_owner(router: Router, webhooks: Webhooks) -> None:
    ann = Owner("default", "ann")
    jobs = await router.stubs_of("ann")
    request = pb.GenerateContentRequest(prompt="x", model="sdxl", format=1, webhook={"url": URL})  # type: ignore[arg-type]
    await jobs.GenerateContent(request)
    await webhooks.secret(ann)
    erase = pb.EraseOwnerRequest(owner_id="ann")
    await router.jobs.EraseOwner(erase)
    router.clock.advance(MINUTE)
    assert await webhooks.lease(limit=9, lease_for=MINUTE) == []
    with pytest.raises(FailedPrecondition, match="erased"):
        await webhooks.secret(ann)
    with pytest.raises(FailedPrecondition, match="erased"):
        await webhooks.rotate(ann)


async def test_only_services_lease_and_report(router: Router) -> None:
    channel = await router.channel_with(router.service.rings.read_key_file("admin.key").reveal(), router.target)
    admin = webhook_service_pb2_grpc.WebhookServiceStub(channel)
    for call in (
        admin.LeaseDeliveries(hooks.LeaseDeliveriesRequest(limit=1)),
        admin.ReportDeliveries(hooks.ReportDeliveriesRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_gateway_gets_what_it_needs_to_send(router: Router) -> None:
    job_id = await cancelled(router, dialect=3)
    channel = await router.channel_with(router.service.rings.read_key_file("gateway.key").reveal(), router.target)
    gateway = webhook_service_pb2_grpc.WebhookServiceStub(channel)
    request = hooks.LeaseDeliveriesRequest(limit=5)
    request.lease.FromTimedelta(MINUTE)
    (found,) = (await gateway.LeaseDeliveries(request)).deliveries
    assert (found.job.job_id, found.owner.owner_id, found.lease) == (job_id, "admin", 1)
    assert found.delivery.created_at.ToDatetime(UTC) <= datetime.now(UTC) + DAY
    assert found.secrets[0].startswith("whsec_")
    done = hooks.DeliveryReport(delivery_id=found.delivery.delivery_id, lease=found.lease, status=204)
    await gateway.ReportDeliveries(hooks.ReportDeliveriesRequest(reports=[done]))
    listed = await gateway.LeaseDeliveries(request)
    assert not listed.deliveries


async def test_pages_of_the_log_hold_every_delivery_once(router: Router, webhooks: Webhooks) -> None:
    made = []
    for _ in range(5):
        made.append(await cancelled(router))
        router.clock.advance(timedelta(microseconds=1))
    seen, token = [], ""
    while True:
        page = await webhooks.list(ADMIN, job_id="", state=None, page_size=2, page_token=token)
        seen += [delivery.job_id for delivery in page.deliveries]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]

"""Two asset services on one PostgreSQL and one folder, at the same moment: each race, in both orders.

A test takes a lock that both racers need, starts one after the other, and lets go when both wait for it. PostgreSQL
serves them in the order in which they came, so that each order is tried for certain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from asset_service.erasure import Erasure
from asset_service.probing import Made, Probe
from asset_service.storage.job_locks import job_lock
from service_kit.clock import ManualClock
from service_kit.erasure import Steps
from service_kit.errors import AtelierError, ErrorReason, NotFound, Unavailable
from service_kit.identity import Owner
from service_kit.ids import asset_id, new_id
from service_kit.rpc_errors import from_rpc_error
from tests.asset_service.harness import ANN, Harness, eventually, running, settlement
from tests.asset_service.pictures import png
from tests.asset_service.test_renditions import renditions
from tests.asset_service.test_small_outputs import file, upload

MINUTE = timedelta(minutes=1)
Race = Callable[[Harness], Coroutine[Any, Any, Any]]


@dataclass
class Pair:
    """Two services, and a look at who waits for whom."""

    one: Harness
    other: Harness
    url: str

    async def waiting(self, count: int) -> None:
        """Wait until so many transactions wait for a lock."""
        query = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pid IN "
        query += "(SELECT pid FROM pg_stat_activity WHERE datname = current_database())"
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:

            async def enough() -> bool:
                found = await (await connection.execute(query)).fetchone()
                return found is not None and found[0] >= count

            await eventually(enough)

    @asynccontextmanager
    async def holding(self, lock: str) -> AsyncIterator[None]:
        """Hold a lock that a statement takes, for as long as it takes."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            await connection.execute("SET search_path TO asset")
            await connection.execute(lock)
            yield

    async def race(self, lock: str, first: Race, second: Race) -> tuple[Any, Any]:
        """Let two services do something at the same moment, the first a moment earlier. Returns results or errors."""
        async with asyncio.TaskGroup() as group:
            async with self.holding(lock):
                tasks = [group.create_task(_outcome(first(self.one)))]
                await self.waiting(1)
                tasks.append(group.create_task(_outcome(second(self.other))))
                await self.waiting(2)
        return tasks[0].result(), tasks[1].result()

    async def look(self) -> None:
        """Let both clear away all that is due."""
        await asyncio.gather(self.one.service.expiry.look(), self.other.service.expiry.look())


async def _outcome(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)


@pytest.fixture
async def pair(tmp_path: Path, migrated_postgres_url: str) -> AsyncIterator[Pair]:
    """Run two services."""
    clock = ManualClock()
    url = migrated_postgres_url
    async with (
        running(tmp_path, clock, core__database_url=url) as one,
        running(tmp_path, clock, core__database_url=url) as other,
    ):
        # Nothing but the tests clears away.
        for harness in (one, other):
            harness.service.removal.nudge = lambda: None  # type: ignore[method-assign]
        yield Pair(one, other, migrated_postgres_url)


def of_job(job_id: str) -> str:
    """Return what locks a job."""
    return f"SELECT pg_advisory_xact_lock({job_lock(job_id)})"


def of_asset(name: str) -> str:
    """Return what locks an asset."""
    return f"SELECT 1 FROM workspace_assets WHERE asset_id = '{name}' FOR UPDATE"


async def rows(pair: Pair, table: str, where: str = "true") -> int:
    """Return how many rows of a table there are."""
    async with await psycopg.AsyncConnection.connect(pair.url) as connection:
        found = await (await connection.execute(f"SELECT count(*) FROM asset.{table} WHERE {where}")).fetchone()
        return int(found[0]) if found else 0


async def test_two_settlements_of_a_job_publish_once_and_are_answered_alike(pair: Pair) -> None:
    job_id, other_id = new_id(), new_id()
    receipts = [(await pair.one.deliver(pair.one.lease(job_id), png(seed=seed), seed)).receipt for seed in (0, 1)]
    other = (await pair.one.deliver(pair.one.lease(other_id), png())).receipt

    # The same jobs in different orders: nobody may wait for the other for ever.
    first, second = await pair.race(
        of_job(job_id),
        lambda one: one.settle_jobs(settlement(job_id, {0: receipts[0]}), settlement(other_id, {0: other})),
        lambda one: one.settle_jobs(settlement(other_id, {0: other}), settlement(job_id, {1: receipts[1]})),
    )
    assert [list(result.settled.published) for result in first] == [[0], [0]]
    assert [list(result.settled.published) for result in second] == [[0], [0]]
    assert len(await pair.one.listed()) == 2
    assert await rows(pair, "events") == 2


@pytest.mark.parametrize("settled_first", [True, False])
async def test_what_is_discarded_while_it_is_settled_is_seen_by_nobody(pair: Pair, settled_first: bool) -> None:
    job_id = new_id()
    receipt = (await pair.one.deliver(pair.one.lease(job_id), png())).receipt
    settle: Race = lambda one: one.settle(job_id, {0: receipt})  # noqa: E731
    discard: Race = lambda one: one.discard(asset_id(job_id, 0))  # noqa: E731
    racers = (settle, discard) if settled_first else (discard, settle)
    results = await pair.race(of_job(job_id), *racers)
    assert not any(isinstance(result, AtelierError) for result in results)
    assert await pair.one.listed() == []
    await pair.look()
    assert await pair.one.blobs() == []
    # A late redelivery brings nothing back.
    assert list((await pair.other.settle(job_id, {0: receipt})).published) == [0]
    assert await pair.one.listed() == []


@pytest.mark.parametrize("settled_first", [True, False])
async def test_no_upload_begins_that_a_settlement_does_not_end(pair: Pair, settled_first: bool) -> None:
    job_id = new_id()
    settle: Race = lambda one: one.settle(job_id, {})  # noqa: E731
    start: Race = lambda one: one.start(one.lease(job_id), png())  # noqa: E731
    results = await pair.race(of_job(job_id), *((settle, start) if settled_first else (start, settle)))
    if settled_first:
        assert results[1].reason is ErrorReason.ALREADY_SETTLED
    await pair.look()
    assert await rows(pair, "uploads") == 0
    assert await pair.one.service.spool.names() == []


@pytest.mark.parametrize("settled_first", [True, False])
async def test_no_upload_is_staged_that_a_settlement_does_not_end(pair: Pair, settled_first: bool) -> None:
    job_id = new_id()
    upload_id = await pair.one.send(pair.one.lease(job_id), png())
    settle: Race = lambda one: one.settle(job_id, {})  # noqa: E731
    finish: Race = lambda one: one.finish(one.lease(job_id), upload_id)  # noqa: E731
    results = await pair.race(of_job(job_id), *((settle, finish) if settled_first else (finish, settle)))
    if settled_first:
        assert results[1].reason is ErrorReason.ALREADY_SETTLED
    await pair.look()
    assert await rows(pair, "uploads") == 0
    assert await pair.one.blobs() == []


async def test_equal_uploads_that_begin_at_once_are_one(pair: Pair) -> None:
    job_id = new_id()
    start: Race = lambda one: one.start(one.lease(job_id), png())  # noqa: E731
    first, second = await pair.race(of_job(job_id), start, start)
    assert first.upload_id == second.upload_id
    assert await rows(pair, "uploads") == 1


async def test_an_upload_is_finished_by_two_replicas_with_one_receipt(pair: Pair) -> None:
    job_id = new_id()
    upload_id = await pair.one.send(pair.one.lease(job_id), png())
    replies = await asyncio.gather(
        *(harness.finish(harness.lease(job_id), upload_id) for harness in (pair.one, pair.other) for _ in range(3))
    )
    assert len({reply.receipt for reply in replies}) == 1
    assert len(await pair.one.blobs()) == 1
    assert list((await pair.one.settle(job_id, {0: replies[0].receipt})).published) == [0]


async def test_a_small_output_that_comes_to_two_replicas_is_one(pair: Pair) -> None:
    job_id = new_id()
    replies = await asyncio.gather(
        *(upload(harness, harness.lease(job_id), file(png())) for harness in (pair.one, pair.other) for _ in range(3))
    )
    assert len({reply.receipt for reply in replies}) == 1
    assert len(await pair.one.blobs()) == 1
    assert await rows(pair, "uploads") == 1


@pytest.mark.parametrize("settled_first", [True, False])
async def test_no_small_output_comes_that_a_settlement_does_not_end(pair: Pair, settled_first: bool) -> None:
    job_id = new_id()
    settle: Race = lambda one: one.settle(job_id, {})  # noqa: E731
    bring: Race = lambda one: upload(one, one.lease(job_id), file(png()))  # noqa: E731
    results = await pair.race(of_job(job_id), *((settle, bring) if settled_first else (bring, settle)))
    refused = results[1 if settled_first else 0]
    # Begun before the settlement, it is refused when it would be staged, unless it was quicker.
    assert getattr(refused, "reason", ErrorReason.ALREADY_SETTLED) is ErrorReason.ALREADY_SETTLED
    await pair.look()
    assert await rows(pair, "uploads") == 0
    assert await pair.one.blobs() == []


async def test_an_upload_goes_on_at_another_replica(pair: Pair) -> None:
    job_id, data = new_id(), png(200, 200)
    lease = pair.one.lease(job_id)
    begun = await pair.one.start(lease, data)
    await pair.one.write(lease, begun.upload_id, data[:500])
    found = await pair.other.start(lease, data)
    assert (found.upload_id, found.received_bytes) == (begun.upload_id, 500)
    assert await pair.other.write(lease, begun.upload_id, data[500:], 500) == len(data)
    assert (await pair.one.finish(lease, begun.upload_id)).media.size_bytes == len(data)


async def test_nothing_is_deleted_while_another_replica_may_write_it(pair: Pair) -> None:
    job_id = new_id()
    upload_id = await pair.one.send(pair.one.lease(job_id), png())
    await pair.one.finish(pair.one.lease(job_id), upload_id)
    async with pair.one.service.locks.hold(upload_id):
        await pair.other.settle(job_id, {})
        await pair.other.service.expiry.look()
        assert await rows(pair, "uploads", "state = 'deleting'") == 1
        with pytest.raises(Unavailable):
            async with pair.other.service.locks.hold(upload_id, patient=False):
                raise AssertionError
    await pair.look()
    assert await rows(pair, "uploads") == 0
    assert await pair.one.blobs() == []


@pytest.mark.parametrize("held_first", [True, False])
@pytest.mark.parametrize("how", ["discarded", "expired"])
async def test_who_holds_an_asset_has_its_bytes_and_who_has_not_is_told(pair: Pair, held_first: bool, how: str) -> None:
    [asset] = await pair.one.publish()
    hold: Race = lambda one: one.hold("save:1", asset.asset_id)  # noqa: E731

    async def discard(one: Harness) -> object:
        return await one.discard(asset.asset_id)

    if how == "discarded":
        results = await pair.race(of_asset(asset.asset_id), *((hold, discard) if held_first else (discard, hold)))
        held = results[0 if held_first else 1]
    else:
        # Expiry waits for nobody: what is locked is looked at the next time.
        pair.one.clock.advance(timedelta(days=8))
        async with pair.one.service.storage.write() as tx:
            await tx.assets.lock([asset.asset_id], ANN)
            if held_first:
                await tx.holds.take("save:1", [asset.asset_id], MINUTE)
            await pair.other.service.expiry.look()
            assert await rows(pair, "workspace_assets", "state = 'available'") == 1
        if not held_first:
            await pair.look()
            held = await _outcome(hold(pair.one))
        else:
            held = None
    await pair.look()
    assert await pair.one.listed() == []
    assert len(await pair.one.blobs()) == (1 if held_first else 0)
    assert isinstance(held, NotFound) is not held_first


async def test_what_is_let_go_cannot_be_held_again_meanwhile(pair: Pair) -> None:
    [asset] = await pair.one.publish()
    await pair.one.hold("save:1", asset.asset_id)
    await pair.one.discard(asset.asset_id)
    pair.one.clock.advance(2 * MINUTE)
    async with asyncio.TaskGroup() as group:
        async with pair.other.service.storage.write() as tx:
            [free] = await tx.assets.let_go(10)
            renewed = group.create_task(_outcome(pair.one.hold("save:1", asset.asset_id)))
            await pair.waiting(1)
            await pair.other.service.removal.let_go(tx, [free])
    assert isinstance(renewed.result(), NotFound)
    await pair.look()
    assert await pair.one.blobs() == []


async def test_what_is_held_again_is_not_let_go_meanwhile(pair: Pair) -> None:
    [asset] = await pair.one.publish()
    await pair.one.hold("save:1", asset.asset_id)
    await pair.one.discard(asset.asset_id)
    pair.one.clock.advance(2 * MINUTE)
    async with pair.one.service.storage.write() as tx:
        await tx.assets.lock([asset.asset_id], ANN)
        await tx.holds.take("save:1", [asset.asset_id], MINUTE)
        await pair.other.service.expiry.look()
    await pair.look()
    assert len(await pair.one.blobs()) == 1


@pytest.mark.parametrize("newer_first", [True, False])
async def test_the_newest_mark_of_a_saved_asset_stays(pair: Pair, newer_first: bool) -> None:
    [asset] = await pair.one.publish()
    saved: Race = lambda one: one.mark_saved(asset.asset_id, "item-1", 1)  # noqa: E731
    gone: Race = lambda one: one.mark_saved(asset.asset_id, "", 2)  # noqa: E731
    await pair.race(of_asset(asset.asset_id), *((gone, saved) if newer_first else (saved, gone)))
    assert (await pair.one.get(asset.asset_id)).saved_item_id == ""


async def test_two_that_clear_away_at_once_leave_the_same_as_one(pair: Pair) -> None:
    for _ in range(3):
        [asset] = await pair.one.publish()
        await pair.one.discard(asset.asset_id)
        job_id = new_id()
        await pair.one.deliver(pair.one.lease(job_id), png())
        await pair.one.settle(job_id, {})
    pair.one.clock.advance(timedelta(days=8))
    await asyncio.gather(*(pair.look() for _ in range(3)))
    assert await pair.one.blobs() == []
    assert await rows(pair, "uploads") == 0
    assert await rows(pair, "workspace_assets", "state <> 'removed'") == 0


async def test_renditions_that_begin_while_their_owner_is_erased_leave_nothing(pair: Pair) -> None:
    await pair.one.bring(png())
    begun, erased = asyncio.Event(), asyncio.Event()

    class Slow(Probe):
        async def render(self, path: Path, kinds: Sequence[str], *, content_type: str) -> list[Made]:
            made = await super().render(path, kinds, content_type=content_type)
            begun.set()
            await erased.wait()
            return made

    class Patient(Erasure):
        async def _delete_bytes(self, owner: Owner, steps: Steps) -> bool:
            await begun.wait()
            return await super()._delete_bytes(owner, steps)

    async def erase(harness: Harness) -> int:
        service = harness.service
        try:
            return await Patient(service.storage, service.removal, service.watchers).erase(ANN)
        finally:
            erased.set()

    probe = Slow()
    try:
        async with asyncio.timeout(20):
            _, left = await pair.race(
                "SELECT 1 FROM workspace_assets FOR UPDATE",
                lambda harness: renditions(harness, probe).work(),
                erase,
            )
    finally:
        await probe.close()
    # What is being written at that moment is waited for.
    assert left > 0
    assert await pair.other.service.erasure.erase(ANN) == 0
    assert await pair.one.blobs() == []

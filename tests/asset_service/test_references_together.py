"""Several small references in one message: each under its own lease; what is not answered is to be read alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from asset_service import references, upload_servicer
from asset_service.reference_wire import encoded
from atelier.asset.v1 import upload_service_pb2 as pb
from service_kit.blobs.local import LocalBlobStore
from service_kit.capabilities import Capabilities, LeaseClaims
from service_kit.ids import asset_id, new_id
from tests.asset_service.harness import BOB, Harness, grant
from tests.asset_service.pictures import png

PICTURES = (png(), png(seed=1), png(seed=2))


async def reading(harness: Harness) -> tuple[LeaseClaims, list[str]]:
    """Store pictures; return a lease that may read them, and their ids."""
    maker = harness.lease(new_id())
    receipts = {index: (await harness.deliver(maker, data, index)).receipt for index, data in enumerate(PICTURES)}
    await harness.settle(maker.job_id, receipts)
    ids = [asset_id(maker.job_id, index) for index in receipts]
    held = (await harness.hold("save:reader", *ids)).held
    return harness.lease(new_id(), references=tuple(map(grant, held))), ids


async def read(harness: Harness, caller: LeaseClaims, *wanted: tuple[LeaseClaims, str]) -> list[bytes | None]:
    """Read references with one message; None for what is not answered."""
    asked = [
        pb.LeasedReference(lease_token=harness.capabilities.sign_lease(lease), asset_id=name) for lease, name in wanted
    ]
    request = pb.ReadReferencesRequest(references=asked)
    reply = await harness.uploads.ReadReferences(request, metadata=harness.as_worker(caller))
    return [one.data if one.HasField("data") else None for one in reply.references]


async def test_references_of_several_leases_come_with_one_message(harness: Harness) -> None:
    lease, ids = await reading(harness)
    other = harness.lease(new_id(), references=lease.references[1:])
    asked = [(lease, ids[0]), (other, ids[1]), (other, ids[2]), (lease, ids[1])]
    assert await read(harness, lease, *asked) == [*PICTURES, PICTURES[1]]


async def test_what_a_lease_does_not_grant_is_not_answered_and_harms_no_other(harness: Harness) -> None:
    lease, ids = await reading(harness)
    narrow = harness.lease(new_id(), references=lease.references[:1], owner=BOB)
    expired = harness.lease(
        new_id(), references=lease.references, expires_at=harness.clock.now() - timedelta(seconds=1)
    )
    gone = harness.lease(new_id(), references=lease.references)
    (blob,) = [blob for blob in await harness.blobs() if blob.key == lease.references[2].key]
    await harness.service.store.delete(blob.bucket, blob.key, blob.generation)
    # The call is made with a lease that grants all of them.
    asked = [(narrow, ids[1]), (expired, ids[0]), (gone, ids[2]), (gone, new_id()), (narrow, ids[0])]
    assert await read(harness, lease, *asked) == [None, None, None, None, PICTURES[0]]


async def test_no_message_is_too_large_for_a_worker(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, ids = await reading(harness)
    asked = [(lease, name) for name in ids]
    monkeypatch.setattr(upload_servicer, "MAX_ANSWERED_BYTES", len(PICTURES[0]) + len(PICTURES[1]))
    found = await read(harness, lease, *asked)
    assert sorted(data is None for data in found) == [False, False, True]
    monkeypatch.setattr(references, "MAX_WHOLE_BYTES", min(map(len, PICTURES)) - 1)
    assert await read(harness, lease, *asked) == [None, None, None]


async def test_all_of_a_message_are_read_with_one_hop_to_a_thread(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, ids = await reading(harness)
    hops: list[object] = []
    to_thread = asyncio.to_thread

    async def counted(work: Any, *args: Any, **options: Any) -> Any:
        hops.append(work)
        return await to_thread(work, *args, **options)

    monkeypatch.setattr(asyncio, "to_thread", counted)
    assert await read(harness, lease, *[(lease, name) for name in ids]) == [*PICTURES]
    # The service's own upkeep has hops as well.
    assert len([work for work in hops if isinstance(getattr(work, "__self__", None), LocalBlobStore)]) == 1


async def test_one_token_is_verified_once_for_all_its_references(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, ids = await reading(harness)
    verified: list[str] = []
    verify = Capabilities.verify_lease

    def counted(capabilities: Capabilities, token: str) -> LeaseClaims:
        verified.append(token)
        return verify(capabilities, token)

    monkeypatch.setattr(Capabilities, "verify_lease", counted)
    assert await read(harness, lease, *[(lease, name) for name in ids]) == [*PICTURES]
    # That of the call itself, and that of the references.
    assert len(verified) == 2


@pytest.mark.parametrize("sizes", [(), (0,), (None,), (1, None, 0, 127, 128, 16_383, 16_384, None, 1 << 20)])
def test_what_is_written_by_hand_is_what_the_library_writes(sizes: tuple[int | None, ...]) -> None:
    found = [None if size is None else bytes(range(256)) * (size // 256) + b"x" * (size % 256) for size in sizes]
    answers = [pb.WholeReference() if data is None else pb.WholeReference(data=data) for data in found]
    assert encoded(found) == pb.ReadReferencesResponse(references=answers).SerializeToString()

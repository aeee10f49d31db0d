"""Sweeps of the workspace meet what is no blob, and find bytes that are no longer what was written."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asset_service import sweep as sweep_module
from atelier.asset.v1 import asset_service_pb2 as pb
from atelier.type.v1 import care_pb2
from service_kit.blobs import WORKSPACE_BUCKET, BlobInfo
from service_kit.clock import ManualClock
from service_kit.identity import KeyKind
from service_kit.ids import new_id
from service_kit.sweeping import Finding, SweepAction, SweepKind, sweep_all
from tests.asset_service.harness import BOB, Harness, running
from tests.asset_service.pictures import png


async def swept(harness: Harness, *, dry_run: bool = False) -> dict[str, Finding]:
    return {found.key: found for found in await sweep_all(harness.service.sweep.page, dry_run=dry_run)}


async def test_a_torn_or_foreign_file_is_told_and_the_rest_is_swept(harness: Harness) -> None:
    [torn, lost] = await harness.publish(quantity=2)
    store, folder = harness.service.store, harness.service.settings.blobs_dir / WORKSPACE_BUCKET
    stray = await store.put_bytes(WORKSPACE_BUCKET, "default/ann/zz", b"stray", content_type="image/png")
    (folder / "a foreign one.blob").write_bytes(b"theirs")
    (folder / os.fsdecode(b"\xff.blob")).mkdir()
    _, lost_key, generation = harness.fetch(lost.url)
    await store.delete(WORKSPACE_BUCKET, lost_key, generation)
    torn_key = harness.fetch(torn.url)[1]
    path = folder / f"{torn_key}.blob/data"
    path.write_bytes(path.read_bytes()[:-3])
    for dry_run, action in ((True, SweepAction.WOULD_DELETE), (False, SweepAction.DELETED)):
        found = await swept(harness, dry_run=dry_run)
        assert found.keys() == {stray.key, "a foreign one", r"\udcff", torn_key, lost_key}
        assert found[stray.key].action is action
        assert (found[torn_key].kind, found[torn_key].subject) == (SweepKind.NOT_A_BLOB, f"asset {torn.asset_id}")
        assert f"{torn_key}.blob" in found[torn_key].explanation
        foreign = found["a foreign one"]
        assert (foreign.kind, foreign.subject, foreign.size_bytes) == (SweepKind.NOT_A_BLOB, "", 6)
        assert found[lost_key].kind is SweepKind.ROW_WITHOUT_BLOB
    assert (folder / "a foreign one.blob").exists()
    assert path.exists()


@pytest.fixture(params=["", "gcs_url"], ids=["a folder", "a bucket"])
async def either(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Harness]:
    url = request.getfixturevalue(request.param) if request.param else ""
    async with running(tmp_path, clock, blobs__url=url) as harness:
        yield harness


async def damage(harness: Harness, blob: BlobInfo) -> None:
    """Have other bytes at the key of a blob than those whose digest is known."""
    store = harness.service.store
    await store.delete(blob.bucket, blob.key, blob.generation)
    other = b"?" * blob.size_bytes
    await store.put_bytes(blob.bucket, blob.key, other, content_type=blob.content_type, sha256=blob.sha256)


async def verified(harness: Harness, token: str = "") -> pb.SweepBlobsResponse:
    request = pb.SweepBlobsRequest(dry_run=True, verify=True, page_token=token)
    response: pb.SweepBlobsResponse = await harness.assets.SweepBlobs(
        request, metadata=harness.as_user(BOB, KeyKind.ADMIN)
    )
    return response


async def test_a_sweep_that_verifies_names_what_has_the_damaged_bytes(
    either: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    [good, bad] = await either.publish(quantity=2)
    finished = await either.deliver(either.lease(new_id()), png(seed=9), 0)
    blobs = {blob.key: blob for blob in await either.blobs()}
    good_key, bad_key = (either.fetch(asset.url)[1] for asset in (good, bad))
    [staged_key] = blobs.keys() - {good_key, bad_key}
    for key in (bad_key, staged_key):
        await damage(either, blobs[key])
    # A page ends where it has read enough.
    monkeypatch.setattr(sweep_module, "AT_ONCE_BYTES", 1)
    found: dict[str, care_pb2.SweepFinding] = {}
    read_bytes, token = 0, ""
    for _ in range(len(blobs)):
        page = await verified(either, token)
        found |= {each.key: each for each in page.findings}
        read_bytes, token = read_bytes + page.verified_bytes, page.next_page_token
        assert page.blobs == 1
    assert {key: each.subject for key, each in found.items()} == {
        bad_key: f"asset {bad.asset_id}",
        staged_key: f"upload {finished.upload_id}",
    }
    assert {each.kind for each in found.values()} == {care_pb2.SWEEP_KIND_DAMAGED_BLOB}
    assert {each.action for each in found.values()} == {care_pb2.SWEEP_ACTION_REPORTED}
    assert all(blobs[key].sha256 in each.explanation for key, each in found.items())
    assert read_bytes == sum(blob.size_bytes for blob in blobs.values())

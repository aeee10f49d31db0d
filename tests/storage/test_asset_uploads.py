"""The asset service's storage: uploads, from their first byte until they are staged or given up."""

from __future__ import annotations

from typing import Any

from asset_service.domain import (
    RenditionKind,
    UploadState,
)
from asset_service.storage import Storage
from service_kit.clock import ManualClock
from tests.storage.asset_rows import ANN, BOB, HOUR, OTHER, PNG, SECOND, put, upload


async def test_an_upload_comes_back_as_it_was(asset_: Storage, clock: ManualClock) -> None:
    plain = upload("u1")
    rich = upload(
        *("u2",),
        rendition=RenditionKind.POSTER,
        state=UploadState.STAGED,
        deadline_at=clock.now(),
        generation="9",
        media=PNG,
        output_upload_id="u1",
        receipt="receipt",
    )
    await put(asset_, plain, rich)
    async with asset_.read() as tx:
        assert await tx.uploads.find("u1") == plain
        assert await tx.uploads.find("u2") == rich
        assert await tx.uploads.find("unknown") is None
        assert await tx.uploads.open_among(["u1", "u2", "unknown"]) == {"u1"}


async def test_renditions_are_those_of_one_staged_output(asset_: Storage) -> None:
    output = upload("u1", asset_id="a")
    changes: dict[str, Any] = {"asset_id": "a", "rendition": RenditionKind.POSTER, "state": UploadState.STAGED}
    mine = [upload(name, **changes, output_upload_id="u1") for name in ("u3", "u2")]
    others = [
        upload("u4", **{**changes, "state": UploadState.OPEN}, output_upload_id="u1"),
        upload("u5", **changes, output_upload_id="u9"),
    ]
    async with asset_.write() as tx:
        await tx.uploads.add_many([output, *mine, *others, upload("u6", job_id="j2")])
        await tx.uploads.add_many([])
        assert [one.upload_id for one in await tx.uploads.renditions_of(output)] == ["u2", "u3"]
        assert await tx.uploads.renditions_of(mine[0]) == []
        found = await tx.uploads.of_outputs(["a", "unknown"])
        assert sorted(one.upload_id for one in found) == ["u1", "u2", "u3", "u4", "u5"]
        assert await tx.uploads.of_outputs([]) == []


async def test_many_are_staged_at_once(asset_: Storage) -> None:
    staged = [upload(name, state=UploadState.STAGED, generation="1", media=PNG, receipt=name) for name in ("u1", "u2")]
    await put(asset_, upload("u1"), upload("u2"), upload("u3"))
    async with asset_.write() as tx:
        await tx.uploads.stage_many(staged)
        await tx.uploads.stage_many([])
        assert sorted(await tx.uploads.lock_jobs(["j1"]), key=lambda one: one.upload_id) == [*staged, upload("u3")]


async def test_the_same_upload_is_found_by_what_it_is_of(asset_: Storage) -> None:
    await put(asset_, upload("u1", sha256="one"), upload("u2", sha256="two"), upload("u3", fence=2, sha256="one"))
    async with asset_.read() as tx:
        same = await tx.uploads.find_same(upload("other", sha256="two"))
        assert same is not None
        assert same.upload_id == "u2"
        for changes in ({"fence": 3}, {"size_bytes": 1}, {"job_id": "j2"}, {"rendition": RenditionKind.CLIP}):
            assert await tx.uploads.find_same(upload("other", **{"sha256": "one", **changes})) is None
        assert await tx.uploads.count_same_file(upload("other")) == 2
        assert await tx.uploads.count_same_file(upload("other", fence=2)) == 1


async def test_uploads_of_an_asset_are_those_of_its_owner_that_may_become_it(asset_: Storage) -> None:
    mine = [upload(name, asset_id="a") for name in ("u1", "u2")]
    deleting = upload("u3", asset_id="a", state=UploadState.DELETING)
    await put(asset_, *mine, deleting, upload("u4", asset_id="a", owner=BOB), upload("u5", asset_id="a", job_id=None))
    async with asset_.read() as tx:
        found = await tx.uploads.of_assets(["a", "unknown"], ANN)
        assert sorted(one.upload_id for one in found) == ["u1", "u2"]
        assert await tx.uploads.of_assets(["a"], OTHER) == []


async def test_only_an_open_upload_is_staged(asset_: Storage) -> None:
    await put(asset_, upload("u1"), upload("u2", state=UploadState.DELETING))
    staged = upload("u1", state=UploadState.STAGED, generation="1", media=PNG)
    async with asset_.write() as tx:
        assert await tx.uploads.stage(staged)
        assert await tx.uploads.find("u1") == staged
        assert not await tx.uploads.stage(staged)
        assert not await tx.uploads.stage(upload("u2", state=UploadState.STAGED))
        assert not await tx.uploads.stage(upload("unknown"))


async def test_uploads_are_given_up_once_and_then_forgotten(asset_: Storage, clock: ManualClock) -> None:
    past, now = clock.now() - SECOND, clock.now()
    await put(asset_, *(upload(f"j1-{n}") for n in range(2)), upload("j2-0", job_id="j2"), upload("j3-0", job_id="j3"))
    await put(
        asset_,
        upload("late", job_id=None, deadline_at=now),
        upload("fresh", job_id=None, deadline_at=now + SECOND),
        upload("of-a-job", job_id="j4", deadline_at=past),
    )
    async with asset_.write() as tx:
        locked = await tx.uploads.lock_jobs(["j2", "j1", "unknown"])
        assert [one.upload_id for one in locked] == ["j1-0", "j1-1", "j2-0"]
        assert await tx.uploads.delete_later("j3-0")
        assert not await tx.uploads.delete_later("j3-0")
        assert await tx.uploads.delete_later_of_jobs(["j1", "j2", "j3"]) == 3
        assert await tx.uploads.delete_overdue_later() == 1
        assert await tx.uploads.lock_jobs(["j1", "j2"]) == []
        deleting = await tx.uploads.deleting("", 9)
        assert [one.upload_id for one in deleting] == ["j1-0", "j1-1", "j2-0", "j3-0", "late"]
        assert [one.upload_id for one in await tx.uploads.deleting("j1-1", 1)] == ["j2-0"]
        await tx.uploads.forget(one.upload_id for one in deleting)
        assert await tx.uploads.deleting("", 9) == []
        assert await tx.uploads.find("late") is None
        assert await tx.uploads.find("fresh") is not None


async def test_uploads_of_clients_are_counted_and_prolonged(asset_: Storage, clock: ManualClock) -> None:
    mine = {"job_id": None, "deadline_at": clock.now() + SECOND}
    await put(
        asset_,
        upload("u1", **mine, filename="a.png", believed_type="image/png"),
        upload("u2", **mine, rendition=RenditionKind.CLIP),
        upload("u3", **mine, state=UploadState.DELETING),
        upload("u4", **mine, owner=BOB),
        upload("u5"),
    )
    async with asset_.write() as tx:
        assert await tx.uploads.count_open_of_client(ANN) == 1
        assert await tx.uploads.count_open_of_client(OTHER) == 0
        await tx.uploads.prolong("u1", clock.now() + HOUR)
        await tx.uploads.prolong("u5", clock.now())
    clock.advance(2 * SECOND)
    async with asset_.write() as tx:
        assert await tx.uploads.delete_overdue_later() == 2
        kept, of_job = await tx.uploads.find("u1"), await tx.uploads.find("u5")
    assert kept is not None
    assert of_job is not None
    assert (kept.state, kept.filename, kept.believed_type) == (UploadState.OPEN, "a.png", "image/png")
    assert of_job.deadline_at is None

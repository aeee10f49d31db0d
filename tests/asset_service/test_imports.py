"""Files that are brought in from other systems: one asset per key, with what was said of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from atelier.asset.v1 import asset_pb2, upload_service_pb2
from service_kit.deletion_pause import begin_pause, end_pause, extend_pause, is_paused
from service_kit.errors import ErrorReason, InvalidArgument
from service_kit.identity import Owner
from tests.asset_service.harness import ANN, BOB, Harness, refusal
from tests.asset_service.pictures import png

KEY = "ab" * 32


async def describe(harness: Harness, owner: Owner = ANN, **said: Any) -> upload_service_pb2.DescribeImportResponse:
    request = upload_service_pb2.DescribeImportRequest(**({"import_key": KEY} | said))
    return await harness.uploads.DescribeImport(request, metadata=harness.as_user(owner))


async def test_an_import_keeps_what_was_said_of_it(harness: Harness) -> None:
    described = await describe(
        harness,
        prompt="提灯 at night",
        negative_prompt="blurry",
        model="sd_xl_base_1.0",
        seed="7",
        width=64,
        height=32,
        steps=30,
        sampler="Euler a",
        guidance=7.5,
        tool="automatic1111",
        path="2024/a.png",
    )
    assert not described.HasField("asset")
    asset = await harness.bring(png(), import_key=KEY, filename="a.png")
    assert asset.asset_id == described.asset_id
    assert asset.source == asset_pb2.ASSET_SOURCE_IMPORT
    made = asset.provenance
    assert (made.prompt, made.negative_prompt, made.seed) == ("提灯 at night", "blurry", 7)
    assert (made.settings.model, made.settings.size, made.settings.steps) == ("sd_xl_base_1.0", "64x32", 30)
    assert (made.imported.tool, made.imported.path, made.imported.seed) == ("automatic1111", "2024/a.png", "7")
    assert (made.imported.sampler, made.imported.guidance) == ("Euler a", 7.5)
    # Asked for again; the sampler is not, which our engines call otherwise.
    assert (made.settings.guidance, made.settings.scheduler) == (7.5, "")


async def test_the_same_key_gives_the_same_asset_also_when_it_was_removed(harness: Harness) -> None:
    await describe(harness)
    asset = await harness.bring(png(), import_key=KEY)
    assert (await describe(harness)).asset.asset_id == asset.asset_id
    assert (await harness.bring(png(), import_key=KEY)).asset_id == asset.asset_id
    assert [one.asset_id for one in await harness.listed()] == [asset.asset_id]
    await harness.discard(asset.asset_id)
    again = await describe(harness)
    assert again.asset.asset_id == asset.asset_id
    assert again.asset.state == asset_pb2.ASSET_STATE_REMOVED
    assert (await describe(harness, BOB)).asset_id != asset.asset_id


@pytest.mark.parametrize("seed", ["9007199254740992", "18446744073709551615", "-5"])
async def test_a_seed_that_json_cannot_carry_is_kept_as_text(harness: Harness, seed: str) -> None:
    await describe(harness, seed=seed)
    made = (await harness.bring(png(), import_key=KEY)).provenance
    assert (made.seed, made.imported.seed) == (0, seed)


async def test_what_cannot_be_an_import_is_refused(harness: Harness) -> None:
    undescribed = await refusal(harness.bring(png(), import_key=KEY))
    assert undescribed.reason == ErrorReason.FAILED_PRECONDITION
    told: tuple[dict[str, Any], ...] = ({"import_key": "AB" * 32}, {"import_key": "ab"}, {"seed": "seven"})
    for said in told:
        request = upload_service_pb2.DescribeImportRequest(**({"import_key": KEY} | said))
        error = await refusal(harness.uploads.DescribeImport(request, metadata=harness.as_user(ANN)))
        assert isinstance(error, InvalidArgument)
    assert not await harness.listed()


async def test_no_bytes_go_while_a_backup_runs(harness: Harness) -> None:
    db = harness.service.storage._db
    asset = await harness.bring(png())
    token = await begin_pause(db, timedelta(minutes=1))
    await harness.discard(asset.asset_id)
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 1
    assert await harness.listed() == []
    assert not await extend_pause(db, "another", timedelta(minutes=1))
    assert await extend_pause(db, token, timedelta(minutes=1))
    await end_pause(db, token)
    assert not await is_paused(db)
    assert not await extend_pause(db, token, timedelta(minutes=1))
    await harness.service.expiry.look()
    assert await harness.blobs() == []

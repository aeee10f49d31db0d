"""The routing table: names, aliases, anchored patterns, the wildcard, and what an operator may do to it."""

from __future__ import annotations

import grpc
import pytest

from atelier.router.v1 import job_pb2, model_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.type.v1 import generation_pb2
from router_service.domain import StageKind
from router_service.generation_domain import Format, Quality
from router_service.models import Match, RoutingTable, effective_size, effective_steps
from router_service.registry_domain import ModelRow
from router_service.storage import codec
from service_kit.errors import ErrorReason, InvalidArgument
from service_kit.rpc_errors import from_rpc_error
from tests.router_service.support import Router
from tests.support.shipped_models import CHAT, SHIPPED

TABLE = RoutingTable([codec.from_json(ModelRow, row["document"]) for row in (*SHIPPED, *CHAT)])


@pytest.mark.parametrize(
    ("model", "worker_type", "effective", "match"),
    [
        ("sdxl", "sdxl", "sdxl", Match.NAME),
        ("sdxl-base-1.0", "sdxl", "sdxl", Match.ALIAS),
        ("sdxl-turbo", "sdxl", "sdxl-turbo", Match.PATTERN),
        ("wan", "wan", "wan", Match.NAME),
        ("wan-2.1", "wan", "wan", Match.ALIAS),
        ("my-sdxl", "wan", "my-sdxl", Match.WILDCARD),
        ("SDXL", "wan", "SDXL", Match.WILDCARD),
    ],
)
def test_names_match_exactly_or_by_an_anchored_pattern_never_by_a_substring(
    model: str, worker_type: str, effective: str, match: Match
) -> None:
    route = TABLE.route(model)
    assert (route.row.worker_type, route.model, route.match) == (worker_type, effective, match)
    assert bool(route.warnings) is (match is Match.WILDCARD)


def test_a_model_that_the_wildcard_catches_is_told_the_nearest_names() -> None:
    warning = TABLE.route("sdxl_base-1.0x"[1:]).warnings[0]
    assert warning.code == "model_caught_by_wildcard"
    assert "sdxl-base-1.0" in warning.message


def test_without_the_wildcard_an_unknown_model_is_an_error() -> None:
    table = RoutingTable([row for row in TABLE.rows if row.name != "*"])
    with pytest.raises(InvalidArgument) as caught:
        table.route("wann")
    assert caught.value.reason is ErrorReason.UNKNOWN_MODEL
    assert [problem.field for problem in caught.value.fields] == ["model"]
    assert "wan" in caught.value.message


def test_sizes_keep_their_area_and_their_step() -> None:
    row = ModelRow("m", 1, StageKind.GENERATE, "t", formats=(Format.IMAGE,))
    assert effective_size(row, "1:1", Quality.STANDARD) == (1024, 1024)
    assert effective_size(row, "1:1", Quality.DRAFT) == (512, 512)
    for ratio in ("16:9", "9:16", "4:3", "3:4", "3:2", "2:3"):
        for quality in Quality:
            width, height = effective_size(row, ratio, quality)
            across, down = map(int, ratio.split(":"))
            assert width % 16 == height % 16 == 0
            assert abs(width / height - across / down) < 0.05
    assert [effective_steps(row, quality) for quality in Quality] == [8, 12, 20]


async def test_an_operator_adds_changes_and_removes_rows(router: Router) -> None:
    row = model_pb2.Model(
        name="house",
        aliases=["some-house-model"],
        stage=job_pb2.STAGE_KIND_GENERATE,
        worker_type="attic",
        formats=[generation_pb2.FORMAT_IMAGE],
        max_quantity=2,
    )
    await router.jobs.PutModel(pb.PutModelRequest(model=row))
    settings = (await router.submit(model="some-house-model")).generation_settings
    assert (settings.worker_type, settings.model) == ("attic", "house")
    await router.jobs.DeleteModel(pb.DeleteModelRequest(name="house"))
    await router.jobs.DeleteModel(pb.DeleteModelRequest(name="*"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.submit(model="some-house-model")
    assert from_rpc_error(caught.value).reason is ErrorReason.UNKNOWN_MODEL
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.jobs.DeleteModel(pb.DeleteModelRequest(name="*"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_row_that_would_make_a_name_ambiguous_is_refused(router: Router) -> None:
    row = model_pb2.Model(
        name="house",
        aliases=["wan-2.1"],
        stage=job_pb2.STAGE_KIND_GENERATE,
        worker_type="attic",
        formats=[generation_pb2.FORMAT_IMAGE],
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.jobs.PutModel(pb.PutModelRequest(model=row))
    assert [problem.field for problem in from_rpc_error(caught.value).fields] == ["model.aliases[0]"]


@pytest.mark.parametrize(("stage", "longest"), [("GENERATE", 56), ("ENHANCE", 64), ("CHAT", 59)])
async def test_every_pool_of_a_row_has_a_name_that_fits(router: Router, stage: str, longest: int) -> None:
    row = model_pb2.Model(name="house", stage=f"STAGE_KIND_{stage}", worker_type="x" * longest)  # type: ignore[arg-type]
    if stage == "GENERATE":
        row.formats.append(generation_pb2.FORMAT_IMAGE)
    await router.jobs.PutModel(pb.PutModelRequest(model=row))
    if stage == "GENERATE":
        accepted = await router.submit(model="house", guidance=7)
        assert accepted.generation_settings.worker_type == row.worker_type
    row.worker_type += "x"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.jobs.PutModel(pb.PutModelRequest(model=row))
    assert [problem.field for problem in from_rpc_error(caught.value).fields] == ["model.worker_type"]


async def test_only_operators_change_the_table(router: Router) -> None:
    bob = await router.stubs_of("bob")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bob.DeleteModel(pb.DeleteModelRequest(name="wan"))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert len((await bob.ListModels(pb.ListModelsRequest())).models) == len(TABLE.rows)

"""The real requests: good ones are accepted with their effective values, bad ones refused by field without a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from atelier.router.v1 import router_service_pb2 as pb
from service_kit.rpc_errors import from_rpc_error
from tests.router_service.support import Router

LINES = [
    json.loads(line) for line in (Path(__file__).parents[1] / "data" / "requests.jsonl").read_text("utf-8").splitlines()
]
GOOD = [line for line in LINES if "refused" not in line]
# An unknown field cannot be written in gRPC; the gateway's tests send that line.
BAD = [line for line in LINES if "refused" in line and "model_type" not in line["request"]]
POOLS = {"sdxl": "sdxl", "sdxl-base-1.0": "sdxl", "wan": "wan", "wan-2.1": "wan", "some-house-model": "wan"}


def to_proto(request: dict[str, Any]) -> pb.GenerateContentRequest:
    """Return a request as a message; the enums of the JSON dialect get their long names."""
    request = json.loads(json.dumps(request))
    for field, prefix in (("format", "FORMAT_"), ("quality", "QUALITY_")):
        if field in request:
            request[field] = prefix + request[field].upper()
    for reference in request.get("reference_images", []):
        reference["kind"] = f"REFERENCE_KIND_{reference['kind'].upper()}"
    return json_format.ParseDict(request, pb.GenerateContentRequest())


@pytest.mark.parametrize("line", GOOD, ids=[line["name"] for line in GOOD])
async def test_a_good_request_is_answered_with_what_will_be_done(router: Router, line: dict[str, Any]) -> None:
    request = line["request"]
    reply = await router.jobs.GenerateContent(to_proto(request))
    settings = reply.generation_settings
    only_text = request.get("enhancement_only", False)
    assert settings.worker_type == ("chat" if only_text else POOLS[request["model"]])
    assert settings.quantity == (0 if only_text else request.get("quantity", 1))
    assert len(reply.asset_ids) == settings.quantity
    if "seed" in request:
        assert settings.seed == request["seed"]
    warned = [warning.code for warning in reply.warnings]
    assert warned == (["model_caught_by_wildcard"] if request["model"] == "some-house-model" else [])
    job = await router.job(reply.job_id)
    assert job.prompt == request["prompt"]
    assert len(job.stages) == (2 if request.get("enhance_prompt") else 1)


@pytest.mark.parametrize("line", BAD, ids=[line["name"] for line in BAD])
async def test_a_bad_request_is_refused_by_field_and_leaves_no_row(router: Router, line: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.jobs.GenerateContent(to_proto(line["request"]))
    assert caught.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    fields = [problem.field for problem in from_rpc_error(caught.value).fields]
    assert any(line["refused"] in field for field in fields), fields
    assert not (await router.jobs.ListJobs(pb.ListJobsRequest())).jobs

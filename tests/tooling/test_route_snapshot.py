"""A released HTTP route never disappears or changes unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from scripts import http_routes

SNAPSHOT = Path(__file__).resolve().parents[2] / "protos" / "released" / "http_routes.json"


def descriptors(**paths: str) -> descriptor_pb2.FileDescriptorSet:
    """One service whose RPCs are the keys, each with `GET path`."""
    result = descriptor_pb2.FileDescriptorSet()
    service = result.file.add(name="a.proto", package="a.v1").service.add(name="AService")
    for name, path in paths.items():
        method = service.method.add(name=name, input_type=".a.v1.In", output_type=".a.v1.Out")
        method.options.Extensions[annotations_pb2.http].get = path
    return result


def test_the_contracts_still_promise_every_stored_route() -> None:
    stored = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert http_routes.differences(stored, http_routes.routes(http_routes.installed_descriptors())) == []


def test_client_facing_rpcs_have_routes() -> None:
    names = {route["rpc"] for route in http_routes.routes(http_routes.installed_descriptors())}
    assert "atelier.router.v1.RouterService.GenerateContent" in names


def test_a_deleted_rpc_and_a_changed_path_are_told() -> None:
    stored = http_routes.routes(descriptors(GetJob="/v1/jobs/{job_id}", ListJobs="/v1/jobs"))
    current = http_routes.routes(descriptors(GetJob="/v1/job/{job_id}"))
    told = http_routes.differences(stored, current)
    names = [sentence.split(" is ")[0] for sentence in told]
    assert names == ["GET /v1/job/{job_id}", "GET /v1/jobs", "GET /v1/jobs/{job_id}"]


def test_the_same_path_for_another_rpc_is_told() -> None:
    stored = http_routes.routes(descriptors(GetJob="/v1/jobs/{job_id}"))
    current = http_routes.routes(descriptors(FetchJob="/v1/jobs/{job_id}"))
    assert len(http_routes.differences(stored, current)) == 1


def test_every_binding_of_a_rule_is_a_route() -> None:
    one = descriptors(GetJob="/v1/jobs/{job_id}")
    rule = one.file[0].service[0].method[0].options.Extensions[annotations_pb2.http]
    rule.additional_bindings.add(post="/v1/jobs/{job_id}:fetch", body="*")
    assert http_routes.routes(one) == [
        {"route": "GET /v1/jobs/{job_id}", "rpc": "a.v1.AService.GetJob", "body": ""},
        {"route": "POST /v1/jobs/{job_id}:fetch", "rpc": "a.v1.AService.GetJob", "body": "*"},
    ]


def test_a_rule_without_a_path_is_refused() -> None:
    one = descriptors(GetJob="/v1/jobs")
    one.file[0].service[0].method[0].options.Extensions[annotations_pb2.http].Clear()
    with pytest.raises(ValueError, match="GetJob has no method and path"):
        http_routes.routes(one)

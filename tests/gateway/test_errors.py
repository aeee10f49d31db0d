"""Bad input and broken services: each a clear answer in the native shape, nothing of the inside shown."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from typing import Any

import grpc
import httpx
import pytest

from gateway.openapi import document
from gateway.status import HTTP_STATUS
from service_kit import errors
from service_kit.errors import ErrorReason, FieldProblem, InvalidArgument, ResourceExhausted
from service_kit.rpc_errors import GRPC_CODES
from tests.gateway.conftest import World
from tests.gateway.fakes import ADMIN, ANN
from tests.gateway.raw import exchange, reason

pytestmark = pytest.mark.asyncio(loop_scope="module")

GENERATE = "/v1/generate-content"
SECRETS = re.compile(rb"Traceback|File \"|/tmp/|site-packages|127\.0\.0\.1|grpc|\.py\b")


def check_shape(response: httpx.Response) -> dict[str, Any]:
    """Return the error after looking at its shape, and that it shows nothing of the inside."""
    assert response.headers["content-type"] == "application/json"
    assert not SECRETS.search(response.content), response.text
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert list(error) == ["status", "reason", "message", "fields", "request_id", "retry_after"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["reason"] in {reason.value for reason in ErrorReason}
    assert error["status"] in {code.name for code in grpc.StatusCode}
    assert error["message"]
    return error


async def test_every_grpc_status_has_an_http_status() -> None:
    assert set(HTTP_STATUS) == set(grpc.StatusCode)


@pytest.mark.parametrize("kind", list(GRPC_CODES), ids=str)
async def test_every_error_of_a_service_has_its_status(same_world: World, kind: type[errors.AtelierError]) -> None:
    async def fail(request: Any, context: Any) -> Any:
        raise kind(
            "One sentence.",
            fields=[FieldProblem("reference_images[0].strength", "must be 0..1, got 2")],
            retry_after=timedelta(seconds=2.5),
        )

    same_world.behaviour.unary["GetJob"] = fail
    response = await same_world.http.get("/v1/jobs/x", headers=ANN)
    error = check_shape(response)
    code = GRPC_CODES[kind]
    assert response.status_code == HTTP_STATUS[code]
    assert error["status"] == code.name
    if kind is errors.Internal:
        assert error["fields"] == [] and "request id" in error["message"]
    elif kind is not errors.DeadlineExceeded:
        assert error["fields"] == [{"field": "reference_images[0].strength", "message": "must be 0..1, got 2"}]
        assert (error["retry_after"], response.headers["retry-after"]) == (2.5, "3")


async def test_a_fault_in_a_service_shows_nothing(same_world: World) -> None:
    async def fail(request: Any, context: Any) -> Any:
        raise RuntimeError("/tmp/secret atl_key")

    same_world.behaviour.unary["GetJob"] = fail
    response = await same_world.http.get("/v1/jobs/x", headers=ANN)
    error = check_shape(response)
    assert (response.status_code, error["reason"]) == (500, "internal")
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status", "why"),
    [
        ("GET", "/v1/nothing", 404, "unknown_route"),
        ("GET", "/v1/jobs/", 404, "unknown_route"),
        ("GET", "/v1/jobs/a%2Fb/c", 404, "unknown_route"),
        ("GET", "/v2/jobs", 404, "unknown_route"),
        ("GET", "//v1/jobs", 404, "unknown_route"),
        ("GET", "/v1/jobs/%ff", 400, "malformed_request"),
        ("PATCH", "/v1/jobs", 405, "method_not_allowed"),
        ("POST", "/v1/health", 405, "method_not_allowed"),
        ("HEAD", "/v1/jobs/x/events", 405, "method_not_allowed"),
        ("HEAD", "/v1/events", 405, "method_not_allowed"),
        ("GET", "/media/x", 404, "unknown_route"),
        ("GET", "/console/../gateway/app.py", 404, "unknown_route"),
        ("GET", "/console/", 404, "unknown_route"),
    ],
)
async def test_routes_that_are_not_there(same_world: World, method: str, path: str, status: int, why: str) -> None:
    code, headers, body = await exchange(
        same_world.port, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    assert code == status
    assert ("allow" in headers) == (status == 405)
    if method != "HEAD":
        assert reason(body) == why


async def test_the_methods_of_a_route_are_told(same_world: World) -> None:
    response = await same_world.http.patch("/v1/models/x")
    assert response.headers["allow"] == "DELETE, PUT"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "why", "field"),
    [
        (b"{", "application/json", 400, "malformed_request", None),
        (b"\xff", "application/json", 400, "malformed_request", None),
        (b"[]", "application/json", 400, "malformed_request", "body"),
        (b'{"prompt": "x", "model_type": "y"}', "application/json", 400, "unknown_field", "model_type"),
        (b"{}", "text/plain", 415, "malformed_request", "content-type"),
        (b"prompt=x", "application/x-www-form-urlencoded", 415, "malformed_request", "content-type"),
        (b"{}", "application/json; charset=utf-16", 415, "malformed_request", "content-type"),
        (b"", "application/json", 400, "missing_field", "prompt"),
        (b"{}", "application/json; charset=UTF-8", 400, "missing_field", "prompt"),
    ],
)
async def test_bodies_that_are_wrong(
    same_world: World, body: bytes, content_type: str, status: int, why: str, field: str | None
) -> None:
    response = await same_world.http.post(GENERATE, content=body, headers={**ANN, "content-type": content_type})
    error = check_shape(response)
    assert (response.status_code, error["reason"]) == (status, why)
    if field:
        assert error["fields"][0]["field"] == field
    assert "GenerateContent" not in same_world.behaviour.seen


async def test_a_route_without_a_body_takes_none(same_world: World) -> None:
    response = await same_world.http.request("GET", "/v1/jobs", content=b"{}", headers=ANN)
    assert (response.status_code, check_shape(response)["reason"]) == (400, "malformed_request")


async def test_a_post_without_a_body_is_an_empty_request(same_world: World) -> None:
    response = await same_world.http.post("/v1/jobs/j1/cancel", headers=ANN)
    assert response.status_code == 200
    assert same_world.behaviour.last("CancelJob").request.job_id == "j1"


@pytest.mark.parametrize(
    ("query", "why", "field"),
    [
        ("page=2", "unknown_field", "page"),
        ("pageSize=2", "unknown_field", "pageSize"),
        ("page_size=x", "malformed_request", "page_size"),
        ("page_size=1.0", "malformed_request", "page_size"),
        ("page_size=", "malformed_request", "page_size"),
        ("page_size=99999999999", "out_of_range", "page_size"),
        ("page_size=1&page_size=2", "malformed_request", "page_size"),
        ("page_size=500", "out_of_range", "page_size"),
        ("state=QUEUED", "invalid_value", "state"),
        ("%ff=1", "malformed_request", None),
        ("page_token=%ff", "malformed_request", None),
        ("&".join(f"a{n}=1" for n in range(200)), "malformed_request", None),
    ],
)
async def test_queries_that_are_wrong(same_world: World, query: str, why: str, field: str | None) -> None:
    response = await same_world.http.get(f"/v1/jobs?{query}", headers=ANN)
    error = check_shape(response)
    assert (response.status_code, error["reason"]) == (400, why)
    if field:
        assert error["fields"][0]["field"] == field


async def test_queries_that_are_right(same_world: World) -> None:
    response = await same_world.http.get("/v1/jobs?page_size=7&state=running&page_token=a%2Bb", headers=ANN)
    assert response.status_code == 200
    request = same_world.behaviour.last("ListJobs").request
    assert (request.page_size, request.state, request.page_token) == (7, 2, "a+b")


async def test_an_empty_enum_counts_as_left_out(same_world: World) -> None:
    assert (await same_world.http.get("/v1/jobs?state=&format=video", headers=ANN)).status_code == 200
    request = same_world.behaviour.last("ListJobs").request
    assert (request.state, request.format) == (0, 2)
    parameters = document()["paths"]["/v1/jobs"]["get"]["parameters"]
    assert {entry["name"] for entry in parameters if entry.get("allowEmptyValue")} == {"state", "format"}


async def test_a_path_and_a_body_that_contradict(same_world: World) -> None:
    body = {"name": "other", "stage": "generate", "worker_type": "sdxl"}
    response = await same_world.http.put("/v1/models/sdxl", json=body, headers=ADMIN)
    error = check_shape(response)
    assert (error["reason"], error["fields"][0]["field"]) == ("conflicting_fields", "model.name")
    again = await same_world.http.put("/v1/models/sdxl%2F2", json={**body, "name": "sdxl/2"}, headers=ADMIN)
    assert again.status_code == 200
    assert same_world.behaviour.last("PutModel").request.model.name == "sdxl/2"
    unknown = await same_world.http.put("/v1/models/sdxl", json={"nope": 1}, headers=ADMIN)
    assert unknown.json()["error"]["fields"][0]["field"] == "model.nope"


async def test_the_idempotency_key_may_be_a_header(same_world: World) -> None:
    body = {"prompt": "x", "model": "sdxl"}
    headers = {**ANN, "idempotency-key": "k1"}
    assert (await same_world.http.post(GENERATE, json=body, headers=headers)).status_code == 200
    assert same_world.behaviour.last("GenerateContent").request.idempotency_key == "k1"
    same = await same_world.http.post(GENERATE, json={**body, "idempotency_key": "k1"}, headers=headers)
    assert same.status_code == 200
    other = await same_world.http.post(GENERATE, json={**body, "idempotency_key": "k2"}, headers=headers)
    assert check_shape(other)["reason"] == "conflicting_fields"


async def test_the_request_id_goes_all_the_way(same_world: World) -> None:
    response = await same_world.http.get("/v1/jobs", headers={**ANN, "x-request-id": "my-id.1"})
    assert response.headers["x-request-id"] == "my-id.1"
    assert same_world.behaviour.last("ListJobs").metadata["x-request-id"] == "my-id.1"
    for odd in (b"a b", b"x" * 65, "ä".encode(), b"a\tb"):
        response = await same_world.http.get("/v1/jobs", headers={b"x-api-key": b"atl_ann", b"x-request-id": odd})
        assert response.headers["x-request-id"].encode() != odd
        assert same_world.behaviour.last("ListJobs").metadata["x-request-id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nbroken header\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ],
)
async def test_what_is_no_http(same_world: World, content: bytes) -> None:
    status, headers, body = await exchange(same_world.port, content + b"\r\n\r\n")
    assert status == 400
    assert reason(body) == "malformed_request"
    assert json.loads(body)["error"]["request_id"] == headers["x-request-id"]
    assert (await same_world.http.get("/v1/jobs", headers=ANN)).status_code == 200


async def test_headers_that_are_too_long(same_world: World) -> None:
    response = await same_world.http.get("/v1/jobs", headers={**ANN, "x": "y" * 40_000})
    assert (response.status_code, check_shape(response)["reason"]) == (431, "malformed_request")
    reader, writer = await asyncio.open_connection("127.0.0.1", same_world.port)
    writer.write(b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 40_000)
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"32768 bytes" in answer
    writer.close()


async def test_a_fault_of_our_own_shows_nothing(same_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.rpc.to_bytes", lambda message: 1 / 0)
    response = await same_world.http.get("/v1/jobs", headers=ANN)
    assert (response.status_code, check_shape(response)["reason"]) == (500, "internal")


async def test_too_much_at_once_is_told_from_too_much_of_it(same_world: World) -> None:
    async def fail(request: Any, context: Any) -> Any:
        raise ResourceExhausted("Slow down.", retry_after=timedelta(milliseconds=300))

    same_world.behaviour.unary["GetJob"] = fail
    response = await same_world.http.get("/v1/jobs/x", headers=ANN)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert check_shape(response)["reason"] == "limit_reached"


async def test_a_service_may_refuse_a_field_too(same_world: World) -> None:
    async def fail(request: Any, context: Any) -> Any:
        raise InvalidArgument.field("model", "is a format; send format: video", ErrorReason.UNKNOWN_MODEL)

    same_world.behaviour.unary["GenerateContent"] = fail
    response = await same_world.http.post(GENERATE, json={"prompt": "x", "model": "video"}, headers=ANN)
    error = check_shape(response)
    assert (response.status_code, error["reason"], error["fields"][0]["field"]) == (400, "unknown_model", "model")

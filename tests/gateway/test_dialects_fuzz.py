"""Bodies that no document describes: a dialect answers them in its own shape, and never with a fault of ours.

What the OpenAPI document describes is sent by test_schemathesis_dialects.py.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import hypothesis
import pytest
from google.protobuf.message import Message
from hypothesis import strategies as st

from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from gateway.dialects.dialect import Dialect, Endpoint
from gateway.dialects.registry import DIALECTS
from tests.gateway.conftest import World
from tests.gateway.fakes import ADMIN

pytestmark = pytest.mark.asyncio(loop_scope="module")
ENDPOINTS = [
    pytest.param(dialect, endpoint, id=f"{endpoint.method} {endpoint.template}")
    for dialect in DIALECTS
    for endpoint in dialect.endpoints
    if endpoint.method in ("POST", "PUT")
]
KEY = ADMIN["authorization"].removeprefix("Bearer ")
EXAMPLES = 10

_TEXTS = st.text(st.characters(categories=["L", "N", "P"]))
_SEGMENTS = st.text(st.characters(categories=["L", "N"], max_codepoint=1000), min_size=1, max_size=80)


def _ended(answer: Callable[..., Message]) -> Callable[[Any, object], Awaitable[Message]]:
    async def serve(request: Any, context: object) -> Message:
        return answer(job=job_pb2.Job(job_id="j1", state=job_pb2.JOB_STATE_SUCCEEDED))

    return serve


def _form(values: dict[str, str]) -> bytes:
    head = '--x\r\ncontent-disposition: form-data; name="'
    parts = [f'{head}{name}"\r\n\r\n{value}\r\n' for name, value in values.items()]
    return ("".join(parts) + "--x--\r\n").encode()


def _forms(endpoint: Endpoint) -> st.SearchStrategy[bytes]:
    names = st.sampled_from([entry.name for entry in endpoint.fields] or ["prompt"])
    bracketed = st.tuples(names, st.sampled_from(["", "[]", "[0]", "[image_url]", "[a][b]", "[", "]"])).map("".join)
    return st.dictionaries(bracketed, _TEXTS, max_size=6).map(_form)


@pytest.mark.parametrize(("dialect", "endpoint"), ENDPOINTS)
async def test_anything_is_answered_in_the_dialects_shape(
    same_world: World, dialect: Dialect, endpoint: Endpoint
) -> None:
    cases: list[tuple[str, bytes, str]] = []

    @hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(st.data())
    def collect(data: Any) -> None:
        path = "/".join(data.draw(_SEGMENTS) if part.startswith("{") else part for part in endpoint.template.split("/"))
        kind = data.draw(st.sampled_from(["application/json", "multipart/form-data; boundary=x", "text/plain"]))
        bodies = _forms(endpoint) if "form" in kind else st.binary(max_size=50)
        cases.append((path, data.draw(bodies), kind))

    collect()
    for name, answer in (("GetJob", pb.GetJobResponse), ("CancelJob", pb.CancelJobResponse)):
        same_world.behaviour.unary[name] = _ended(answer)
    for path, body, kind in cases:
        headers = {"authorization": f"{sorted(dialect.schemes)[0]} {KEY}", "content-type": kind}
        async with same_world.http.stream(endpoint.method, path, content=body, headers=headers) as response:
            told = (path, body, response.status_code)
            assert response.status_code < 500, told
            if response.status_code >= 400:
                answer = json.loads(await response.aread())
                assert "reason" not in (answer.get("error") or {}), told

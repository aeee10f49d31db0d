"""Whatever goes wrong below the prefix of a dialect comes out in the dialect's own shape."""

from __future__ import annotations

import re

import httpx
import pytest

from gateway.dialects.dialect import Dialect, Endpoint
from gateway.dialects.registry import DIALECTS
from tests.gateway.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="module")
SIGNED = {
    "/fal/storage/upload",
    "/fal/storage/parts/complete",
    "/fal/storage/parts/{part}",
    "/replicate/v1/predictions/{id}/stream",
}
"""What looks at the identity itself, because a signature of ours in the address may stand for it."""


@pytest.fixture
def http(same_world: World) -> httpx.AsyncClient:
    return same_world.http


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/openai/v1/nothing", {}, 404, "unknown_route"),
        ("GET", "/openai", {}, 404, "unknown_route"),
        ("PUT", "/openai/v1/models", {}, 405, "method_not_allowed"),
        ("GET", "/openai/v1/models", {}, 401, "missing_identity"),
        ("GET", "/openai/v1/models", {"authorization": "Key abc"}, 401, "invalid_identity"),
        ("GET", "/openai/v1/models", {"host": "elsewhere.example"}, 403, "access_denied"),
        ("GET", "/openai/v1/models", {"x-filler": "x" * (33 << 10)}, 431, "malformed_request"),
    ],
)
async def test_every_refusal_has_the_dialects_shape(
    http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    response = await http.request(method, path, headers=headers)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert response.headers["x-request-id"]


async def test_other_paths_keep_the_native_shape(http: httpx.AsyncClient) -> None:
    response = await http.get("/openai-but-not/v1/models")
    assert response.json()["error"]["reason"] == "unknown_route"


@pytest.mark.parametrize(
    ("dialect", "endpoint"),
    [
        pytest.param(dialect, endpoint, id=f"{endpoint.method} {endpoint.template}")
        for dialect in DIALECTS
        for endpoint in dialect.endpoints
    ],
)
async def test_nothing_is_served_without_an_identity(
    http: httpx.AsyncClient, dialect: Dialect, endpoint: Endpoint
) -> None:
    path = re.sub(r"{[^}]*}", "x", endpoint.template)
    for headers in ({}, {"authorization": "Basic atl_ann"}, {"authorization": f"{min(dialect.schemes)} wrong"}):
        response = await http.request(endpoint.method, path, headers=headers)
        if endpoint.template in SIGNED:
            assert response.status_code in (401, 403, 422), response.text
        else:
            assert response.status_code == 401, response.text
        assert "reason" not in response.text

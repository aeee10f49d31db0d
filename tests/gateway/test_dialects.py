"""Whatever goes wrong below the prefix of a dialect comes out in the dialect's own shape."""

from __future__ import annotations

import httpx
import pytest

from tests.gateway.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="module")


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

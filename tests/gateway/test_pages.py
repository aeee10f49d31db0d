"""The console's files: served as they are, under a strict policy, and nothing beside them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gateway import pages
from tests.gateway.conftest import MakeWorld
from tests.gateway.raw import exchange


@pytest.fixture
async def console(make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
    package = tmp_path / "page_files"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").write_text('"""Files."""\n')
    (package / "index.html").write_text("<!doctype html><title>Atelier</title>")
    (package / "docs.html").write_text("<!doctype html><title>API</title>")
    (package / "parts" / "app.js").write_text("export {};")
    (tmp_path / "secret.html").write_text("not for anybody")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pages, "PACKAGE", "page_files")
    world = await make_world(core__public_url="https://art.example/")
    return world.http


async def test_the_page_is_at_the_root_and_needs_no_identity(console: httpx.AsyncClient) -> None:
    response = await console.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "Atelier" in response.text
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    # Signed pictures are at the public address, which need not be the one that the page was opened by.
    assert "img-src 'self' data: blob: https://art.example;" in policy
    assert "API" in (await console.get("/docs")).text


async def test_files_have_their_types_and_are_not_sent_twice(console: httpx.AsyncClient) -> None:
    response = await console.get("/console/parts/app.js")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    again = await console.get("/console/parts/app.js", headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/console/",
        "/console",
        "/console/parts",
        "/console/parts/",
        "/console/__init__.py",
        "/console/../secret.html",
        "/console/%2e%2e/secret.html",
        "/console/..%2fsecret.html",
        "/console//index.html",
        "/index.html",
    ],
)
async def test_nothing_else_is_served(console: httpx.AsyncClient, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    status, _, body = await exchange(console.base_url.port or 0, request.encode())
    assert status == 404
    assert b"not for anybody" not in body

"""A scripted API, and both clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.atelier_client.either import Either
from tests.atelier_client.scripted import ScriptedApi, scripted_api


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as api:
        yield api


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, api: ScriptedApi) -> Either:
    return Either(request.param, api.url)

"""Limits at the door are said in the shape of every dialect."""

from __future__ import annotations

import pytest

from gateway.dialects.dialect import Dialect
from gateway.dialects.forms import MAX_FORM_BYTES
from gateway.dialects.registry import DIALECTS
from tests.gateway.conftest import MakeWorld

PATHS = {
    "openai": ("/openai/v1/models", "/openai/v1/videos"),
    "fal": ("/fal/queue/fal-ai/sdxl/requests/x/status", "/fal/queue/fal-ai/sdxl"),
    "replicate": ("/replicate/v1/predictions", "/replicate/v1/predictions"),
}
"""Where each dialect reads, and where it writes."""


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_the_limit_and_when_to_come_back_are_said_in_every_shape(make_world: MakeWorld, dialect: Dialect) -> None:
    world = await make_world(gateway__requests_per_minute_per_key=1)
    headers = {"authorization": f"{sorted(dialect.schemes)[0]} atl_ann"}
    path, _ = PATHS[dialect.name]
    assert (await world.http.get(path, headers=headers)).status_code != 429
    refused = await world.http.get(path, headers=headers)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert "requests per minute" in refused.text.replace("_", " ")
    assert "reason" not in refused.text


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_body_that_is_too_large_is_refused_in_every_shape(make_world: MakeWorld, dialect: Dialect) -> None:
    world = await make_world()
    headers = {"authorization": f"{sorted(dialect.schemes)[0]} atl_ann", "content-type": "application/json"}
    _, path = PATHS[dialect.name]
    refused = await world.http.post(path, headers=headers, content=b" " * (MAX_FORM_BYTES + 1))
    assert refused.status_code == 413, refused.text
    assert "reason" not in refused.text

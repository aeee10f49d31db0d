"""Unary routes: what reaches the service, what comes back."""

from __future__ import annotations

from atelier.router.v1 import job_pb2, router_service_pb2
from tests.gateway.conftest import World
from tests.gateway.fakes import ADMIN, ANN


async def test_a_request_reaches_the_service_and_its_reply_comes_back_with_zeros(world: World) -> None:
    async def answer(request: object, context: object) -> router_service_pb2.GenerateContentResponse:
        reply = router_service_pb2.GenerateContentResponse(job_id="j1", state=job_pb2.JOB_STATE_QUEUED)
        reply.generation_settings.seed = 0
        return reply

    world.behaviour.unary["GenerateContent"] = answer
    body = {"prompt": "雨の夜 🌧️", "model": "sdxl", "format": "image", "seed": 0}
    response = await world.http.post("/v1/generate-content", json=body, headers=ANN)

    assert response.status_code == 200, response.text
    seen = world.behaviour.last("GenerateContent").request
    assert seen.prompt == "雨の夜 🌧️"
    assert seen.HasField("seed") and seen.seed == 0
    assert not seen.HasField("quantity")
    reply = response.json()
    assert reply["job_id"] == "j1"
    assert reply["state"] == "queued"
    assert reply["generation_settings"]["seed"] == 0
    assert reply["warnings"] == []
    assert "created_at" not in reply


async def test_the_star_names_a_model_in_a_path(world: World) -> None:
    response = await world.http.delete("/v1/models/*", headers=ADMIN)
    assert response.status_code == 200, response.text
    assert world.behaviour.last("DeleteModel").request.name == "*"

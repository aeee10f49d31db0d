"""`GET /models` and `GET /models/{id}`: what a client may name, read from the routing table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from atelier.router.v1 import model_pb2
from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint
from gateway.dialects.naming import CALLED
from gateway.http import Reply
from service_kit.errors import ErrorReason, NotFound


async def find_models(call: Call) -> Reply:
    """Answer every model that has a name of its own; a pattern has none."""
    return json_reply({"object": "list", "data": [_model(name) for name in _names(await call.jobs.models())]})


async def get_model(call: Call) -> Reply:
    """Answer one model. Raises NotFound for a name that only a pattern would match."""
    name = call.path["model"]
    if name not in _names(await call.jobs.models()):
        raise NotFound(
            f"There is no model {name[:100]!r}: GET /openai/v1/models lists them.", ErrorReason.UNKNOWN_MODEL
        )
    return json_reply(_model(name))


def _names(rows: Iterable[model_pb2.Model]) -> Iterator[str]:
    for row in rows:
        if row.stage in CALLED:
            yield from (name for name in (row.name, *row.aliases) if not name.endswith("*"))


def _model(name: str) -> Any:
    # When a row was written is not kept: the format wants a number.
    return {"id": name, "object": "model", "created": 0, "owned_by": "atelier"}


ENDPOINTS = (
    Endpoint("GET", "/openai/v1/models", find_models, note="Names and aliases of the routing table; `created` is 0."),
    Endpoint("GET", "/openai/v1/models/{model...}", get_model),
)

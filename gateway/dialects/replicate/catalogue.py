"""Models and versions of Replicate's API, read from the routing table.

`stability-ai/sdxl` is the model whose name or alias is that, or else `sdxl`. A model has one version, whose id is the
SHA-256 of its name; the id of a version elsewhere is found when it is an alias.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atelier.router.v1 import job_pb2, model_pb2
from atelier.type.v1 import generation_pb2
from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint
from gateway.dialects.naming import find_model, own_names
from gateway.http import Reply
from service_kit.errors import ErrorReason, InvalidArgument, NotFound

ROOT = "/replicate/v1"
OWNER = "atelier"
"""Who owns the models, where nobody has said whose they are."""

# Clients rewrite the schemas of versions that were made with a Cog before 0.3.9.
_COG = "0.16.0"
# When a row of the routing table was written is not kept.
_EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Named:
    """A model as a client named it."""

    owner: str
    name: str
    model: str
    """What the job asks for."""
    row: model_pb2.Model

    @property
    def slug(self) -> str:
        """Owner and name."""
        return f"{self.owner}/{self.name}"

    @property
    def format(self) -> generation_pb2.Format.ValueType:
        """What the model makes: the first of its formats when it can do several."""
        return self.row.formats[0] if self.row.formats else generation_pb2.FORMAT_UNSPECIFIED


def makes_text(row: model_pb2.Model) -> bool:
    """Tell whether a model writes the next message of a conversation."""
    return row.stage == job_pb2.STAGE_KIND_CHAT


def version_id(model: str) -> str:
    """Return the id of the version of a model."""
    return hashlib.sha256(model.encode()).hexdigest()


def by_name(rows: Sequence[model_pb2.Model], owner: str, name: str) -> Named:
    """Return the model of an owner and a name. Raises NotFound when there is none."""
    found = find_model(rows, (f"{owner}/{name}", name))
    if found is None:
        said = f"{owner}/{name}"[:200]
        raise NotFound(
            f"There is no model {said}: no model is called that, or {name[:100]}.", ErrorReason.UNKNOWN_MODEL
        )
    return Named(owner, name, *found)


def by_version(rows: Sequence[model_pb2.Model], version: str) -> Named:
    """Return the model of a version: `owner/name:version`, `owner/name`, the id of a version, or a name.

    Raises:
        InvalidArgument: there is none.
    """
    slug, _, identifier = version.rpartition(":")
    for name, row in own_names(rows):
        if identifier == version_id(name):
            owner, _, said = slug.partition("/") if "/" in slug else (OWNER, "", name)
            return Named(owner, said, name, row)
    found = find_model(rows, (identifier,)) if "/" not in identifier else None
    if found is not None:
        owner, _, said = slug.partition("/") if "/" in slug else (OWNER, "", found[0])
        return Named(owner, said, *found)
    if slug or "/" not in identifier:
        message = "is not the id of a version here; a model's id may be had from its page, or be made an alias of it"
        raise InvalidArgument.field("version", message, ErrorReason.UNKNOWN_MODEL)
    owner, _, name = identifier.partition("/")
    try:
        return by_name(rows, owner, name)
    except NotFound as error:
        raise InvalidArgument.field("version", f"names no model: {error.message}", ErrorReason.UNKNOWN_MODEL) from error


async def get_model(call: Call) -> Reply:
    """Answer a model."""
    return json_reply(_model(await _named(call), call.kit.public_url))


async def find_models(call: Call) -> Reply:
    """Answer every model that has a name of its own, on one page."""
    rows = own_names(await call.jobs.models())
    models = [_model(Named(OWNER, name, name, row), call.kit.public_url) for name, row in rows]
    return json_reply({"previous": None, "next": None, "results": models})


async def find_versions(call: Call) -> Reply:
    """Answer the one version of a model; none of one that only a pattern matches."""
    named = await _named(call)
    results = [] if _is_pattern(named.row) else [_version(named)]
    return json_reply({"previous": None, "next": None, "results": results})


async def get_version(call: Call) -> Reply:
    """Answer a version of a model. Raises NotFound for the id of another one's."""
    named = await _named(call)
    if _is_pattern(named.row) or call.path["version"] not in (version_id(named.row.name), *named.row.aliases):
        raise NotFound(f"{named.slug[:200]} has no version {call.path['version'][:80]}.", ErrorReason.UNKNOWN_MODEL)
    return json_reply(_version(named) | {"id": call.path["version"]})


async def _named(call: Call) -> Named:
    return by_name(await call.jobs.models(), call.path["owner"], call.path["name"])


def _is_pattern(row: model_pb2.Model) -> bool:
    return row.name.endswith("*")


def _model(named: Named, public_url: str) -> dict[str, Any]:
    return {
        "url": f"{public_url}/",
        "owner": named.owner,
        "name": named.name,
        "description": f"{named.row.name}, in the pool {named.row.worker_type}.",
        "visibility": "public",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": None if _is_pattern(named.row) else _version(named),
    }


def _version(named: Named) -> dict[str, Any]:
    return {
        "id": version_id(named.row.name),
        "created_at": _EPOCH,
        "cog_version": _COG,
        "openapi_schema": {
            "openapi": "3.0.2",
            "info": {"title": named.row.name, "version": "1"},
            "paths": {},
            "components": {"schemas": {"Input": _INPUT, "Output": _output(named)}},
        },
    }


_INPUT = {
    "type": "object",
    "title": "Input",
    "required": ["prompt"],
    "properties": {"prompt": {"type": "string", "title": "Prompt", "x-order": 0}},
}


def _output(named: Named) -> dict[str, Any]:
    file = {"type": "string", "format": "uri"}
    if makes_text(named.row):
        return {
            "type": "array",
            "items": {"type": "string"},
            "x-cog-array-type": "iterator",
            "x-cog-array-display": "concatenate",
        }
    return file if named.format == generation_pb2.FORMAT_VIDEO else {"type": "array", "items": file}


_NOTE = "`created_at` of a version and `run_count` are not kept: they are constants."
ENDPOINTS = (
    Endpoint("GET", f"{ROOT}/models", find_models, note="Names of the routing table; all on one page."),
    Endpoint("GET", f"{ROOT}/models/{{owner}}/{{name}}", get_model, note=_NOTE),
    Endpoint("GET", f"{ROOT}/models/{{owner}}/{{name}}/versions", find_versions, note=_NOTE),
    Endpoint("GET", f"{ROOT}/models/{{owner}}/{{name}}/versions/{{version}}", get_version, note=_NOTE),
)

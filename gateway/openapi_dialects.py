"""The routes of the dialects in the OpenAPI document: made of their tables, and of what they tell of their answers."""

from __future__ import annotations

import re
from http import HTTPStatus

from gateway.dialects.described import FORM_TYPE, JSON_TYPE, Answer, Described
from gateway.dialects.dialect import Dialect, Endpoint
from gateway.dialects.registry import DIALECTS
from gateway.examples import JOB_ID, Example
from gateway.openapi_errors import EVERYWHERE
from gateway.openapi_fields import body_schema, example_of, parameter
from gateway.openapi_schemas import Json, Schemas

_NAME = re.compile(r"\{(\w+)(?:\.\.\.)?\}")
_EXAMPLES = {
    "owner": "fal-ai",
    "app": "sdxl",
    "namespace": "workflows",
    "name": "sdxl",
    "model": "sdxl",
    "part": "1",
}
_REST = {"app": "fal-ai/sdxl/text-to-image", "model": "sdxl"}


def dialect_paths(schemas: Schemas) -> dict[str, Json]:
    """Return the operations of every dialect by path and method."""
    paths: dict[str, Json] = {}
    bodies: dict[tuple[int, str], str] = {}
    for dialect in DIALECTS:
        schemas.components[f"{_word(dialect)}Error"] = {
            "description": f"What every error under {dialect.prefixes[0]} is answered with.",
            **_described(dialect.error_schema),
        }
        for endpoint in dialect.endpoints:
            operation = _operation(schemas, bodies, dialect, endpoint)
            paths.setdefault(path_of(endpoint), {})[endpoint.method.lower()] = operation
    return paths


def path_of(endpoint: Endpoint) -> str:
    """Return the path as the document has it: what may have slashes is named as any other part."""
    return endpoint.template.replace("...}", "}")


def operation_id(dialect: Dialect, endpoint: Endpoint) -> str:
    """Return the name of an operation: `OpenaiGetV1VideosByVideoId`."""
    parts = endpoint.template.split("/")[2:]
    words = [f"By{_camel(part)}" if part.startswith("{") else _camel(part) for part in parts]
    return f"{_word(dialect)}{endpoint.method.capitalize()}{''.join(words)}"


def example_of_endpoint(dialect: Dialect, endpoint: Endpoint) -> Example:
    """Return a request as the documents show it."""
    rest = "...}" in endpoint.template
    path = {name: (_REST if rest else _EXAMPLES).get(name, JOB_ID) for name in _NAME.findall(endpoint.template)}
    query = {entry.name: entry.example for entry in endpoint.query if entry.required}
    said = dialect.described[endpoint.serve]
    form = said.bodies == (FORM_TYPE,)
    body = example_of(endpoint.fields) if endpoint.fields and not form else None
    return Example(path=path, query=query, body=body, file="heron.png" if said.raw or form else "")


def _camel(part: str) -> str:
    return "".join(word.capitalize() for word in re.findall(r"[A-Za-z0-9]+", part))


def _word(dialect: Dialect) -> str:
    return dialect.name.capitalize()


def _described(schema: Json) -> Json:
    """Return a schema whose fields all have words: the names of somebody else's API say enough."""
    properties = {name: {**inner, "description": f"`{name}`."} for name, inner in schema["properties"].items()}
    return {**schema, "properties": properties}


def _operation(schemas: Schemas, bodies: dict[tuple[int, str], str], dialect: Dialect, endpoint: Endpoint) -> Json:
    name = operation_id(dialect, endpoint)
    said = dialect.described[endpoint.serve]
    about = (endpoint.serve.__doc__ or "").strip().split("\n")[0]
    operation: Json = {
        "operationId": name,
        "tags": [dialect.title],
        "summary": about.removesuffix("."),
        "description": " ".join(text for text in (about, endpoint.note) if text),
        "parameters": _parameters(endpoint, said),
        "responses": _responses(dialect, endpoint, said),
    }
    if endpoint.open:
        operation["security"] = []
    if endpoint.fields:
        operation["requestBody"] = _body(schemas, bodies, endpoint, said, name)
    elif said.raw:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "description": said.raw, "content": content}
    return operation


def _parameters(endpoint: Endpoint, said: Described) -> list[Json]:
    rest = "...}" in endpoint.template
    found: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": f"The {name.replace('_', ' ')}." + (" It may have slashes." if rest else ""),
            "schema": {"type": "string", "minLength": 1},
            "example": (_REST if rest else _EXAMPLES).get(name, JOB_ID),
        }
        for name in _NAME.findall(endpoint.template)
    ]
    found += [parameter(entry, "query") for entry in endpoint.query]
    return found + [parameter(entry, "header") for entry in said.headers]


def _body(
    schemas: Schemas,
    bodies: dict[tuple[int, str], str],
    endpoint: Endpoint,
    said: Described,
    name: str,
) -> Json:
    content: Json = {}
    for kind in said.bodies:
        form = kind == FORM_TYPE
        # Endpoints that take the same table share its schema.
        component = bodies.setdefault((id(endpoint.fields), kind), f"{name}{'Form' if form else 'Body'}")
        schemas.components[component] = body_schema(endpoint.fields, f"What {endpoint.template} takes.", form=form)
        content[kind] = {"schema": {"$ref": f"#/components/schemas/{component}"}}
        if not form:
            content[kind]["example"] = example_of(endpoint.fields)
    return {"required": any(entry.required for entry in endpoint.fields), "content": content}


def _responses(dialect: Dialect, endpoint: Endpoint, said: Described) -> Json:
    found = {str(status): _answer(answer) for status, answer in said.answers.items()}
    error = Answer("", {JSON_TYPE: {"$ref": f"#/components/schemas/{_word(dialect)}Error"}})
    for status in sorted(_failures(endpoint, said) | said.refuses):
        found.setdefault(str(status), _answer(error) | {"description": _phrase(status)})
    return dict(sorted(found.items()))


def _failures(endpoint: Endpoint, said: Described) -> set[int]:
    statuses = set(EVERYWHERE) | {401}
    if _NAME.search(endpoint.template):
        statuses.add(404)
    if endpoint.fields or said.raw:
        statuses |= {404, 409, 413, 415}
    if endpoint.says_422:
        statuses.add(422)
    return statuses


def _answer(answer: Answer) -> Json:
    content = {kind: {"schema": schema} for kind, schema in answer.content.items()}
    return {"description": answer.about} | ({"content": content} if content else {})


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Client closed request"

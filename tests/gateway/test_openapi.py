"""The OpenAPI document: valid, complete, and saying what the contracts say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from atelier.type.v1 import error_pb2
from gateway.dialects.openai.requests import QUALITIES
from gateway.dialects.registry import DIALECTS
from gateway.examples import EXAMPLES
from gateway.http_rules import routes
from gateway.openapi import document, template
from gateway.openapi_comments import comment, summary
from gateway.openapi_dialects import operation_id
from gateway.status import HTTP_STATUS
from service_kit.errors import ErrorReason
from tests.gateway.conftest import World

OPERATIONS = {
    operation["operationId"]: operation for path in document()["paths"].values() for operation in path.values()
}

OF_DIALECTS = {operation_id(dialect, endpoint) for dialect in DIALECTS for endpoint in dialect.endpoints}


def component(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the component that a schema refers to."""
    found: dict[str, Any] = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def request_schema(name: str) -> dict[str, Any]:
    """Return the schema of an operation's JSON body."""
    return component(OPERATIONS[name]["requestBody"]["content"]["application/json"]["schema"])


def test_it_is_valid() -> None:
    validate(document(), cls=OpenAPIV31SpecValidator)


def test_every_rpc_with_a_route_is_in_it_and_every_operation_has_an_example() -> None:
    for route in routes():
        operation = document()["paths"][template(route)][route.http_method.lower()]
        assert operation["operationId"] == route.operation
    assert set(EXAMPLES) | OF_DIALECTS == set(OPERATIONS)
    assert not set(EXAMPLES) & OF_DIALECTS
    assert {"/v1/events", "/v1/health", "/media/{bucket}/{key}"} <= document()["paths"].keys()


def test_operations_stand_in_the_order_of_the_contracts() -> None:
    of_router = [
        operation["operationId"]
        for operations in document()["paths"].values()
        for operation in operations.values()
        if operation["tags"] == ["RouterService"]
    ]
    assert of_router[0] == "GenerateContent" and of_router[-1] == "EraseOwnerInRouter"


def test_everything_is_described() -> None:
    for name, operation in OPERATIONS.items():
        assert operation["summary"] and operation["description"], name
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (name, parameter["name"])
    for name, schema in document()["components"]["schemas"].items():
        assert schema["description"], name
        for field, property_ in schema.get("properties", {}).items():
            assert property_.get("description"), (name, field)


def test_descriptions_are_the_comments_of_the_contracts() -> None:
    operation = OPERATIONS["CancelJob"]
    assert operation["summary"] == "Stops a job that waits or runs"
    assert operation["description"].startswith("Stops a job that waits or runs. The worker is told at once")
    assert "\n\nErrors: NOT_FOUND" in comment("atelier.asset.v1.AssetService.GetAsset")
    assert request_schema("GenerateContent")["properties"]["negative_prompt"]["description"] == (
        "What should not be in it."
    )
    assert summary("One. Two.\n\nThree.") == "One"


def test_limits_defaults_and_required_fields() -> None:
    schema = request_schema("GenerateContent")
    assert schema["required"] == ["model"]
    assert schema["additionalProperties"] is False
    fields = schema["properties"]
    assert fields["prompt"] | {"description": "", "examples": []} == {
        "description": "",
        "examples": [],
        "type": "string",
        "maxLength": 8000,
    }
    quantity = {name: fields["quantity"][name] for name in ("type", "minimum", "maximum", "default")}
    assert quantity == {"type": "integer", "minimum": 1, "maximum": 8, "default": 1}
    seed = {name: fields["seed"][name] for name in ("type", "format", "minimum", "maximum")}
    assert seed == {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**53 - 1}
    assert fields["duration_seconds"]["default"] == 3
    assert "16:9" in fields["aspect_ratio"]["enum"] and "default" not in fields["aspect_ratio"]
    assert fields["aspect_ratio"]["description"].endswith("Default: 1:1 for an image, 16:9 for a video.")
    assert fields["quality"]["default"] == "standard"
    assert fields["reference_images"]["maxItems"] == 8
    assert request_schema("SaveToLibrary")["properties"]["asset_ids"]["minItems"] == 1


def test_replies_print_every_field_that_is_always_there() -> None:
    schemas = document()["components"]["schemas"]
    assert {"job_id", "state", "stages", "delivered"} <= set(schemas["Job"]["required"])
    assert "failure" not in schemas["Job"]["required"]
    assert "additionalProperties" not in schemas["Job"]
    assert schemas["Preview"]["properties"]["image"]["contentEncoding"] == "base64"
    assert schemas["Job"]["properties"]["created_at"]["format"] == "date-time"
    assert schemas["SaveResult"]["oneOf"] == [{"required": ["item"]}, {"required": ["failure"]}]


def test_enums_are_lower_case_and_described() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["FormatInput"]["enum"] == ["image", "video"]
    assert schemas["Format"]["enum"] == ["", "image", "video"]
    assert schemas["JobState"]["enum"][0] == "queued"
    assert "- `succeeded`: Ended, with at least one output" in schemas["JobState"]["description"]


def test_paths_of_one_shape_have_one_name() -> None:
    shapes = [re.sub(r"\{.+?\}", "{}", path) for path in document()["paths"]]
    assert len(shapes) == len(set(shapes))
    assert {"put", "delete"} == document()["paths"]["/v1/models/{name}"].keys()


def test_what_the_path_fills_is_not_in_the_body() -> None:
    model = request_schema("PutModel")
    assert "name" not in model["properties"] and "name" not in model["required"]
    assert "connected_workers" not in model["properties"]
    assert request_schema("CancelJob")["properties"] == {}
    assert OPERATIONS["CancelJob"]["requestBody"]["required"] is False


def test_errors_have_every_reason_and_every_operation_its_statuses() -> None:
    schemas = document()["components"]["schemas"]
    assert set(schemas["ErrorReason"]["enum"]) == set(ErrorReason) - {ErrorReason.UNSPECIFIED}
    assert len(schemas["ErrorReason"]["enum"]) == len(error_pb2.ErrorReason.values()) - 1
    statuses = schemas["Error"]["properties"]["error"]["properties"]["status"]["enum"]
    assert set(statuses) == {code.name for code in HTTP_STATUS if code.name != "OK"}
    assert {"400", "401", "404", "409", "413", "503"} <= OPERATIONS["GenerateContent"]["responses"].keys()
    assert "404" in OPERATIONS["GetAsset"]["responses"] and "409" in OPERATIONS["CancelJob"]["responses"]
    assert "401" not in OPERATIONS["GetHealth"]["responses"]


def test_who_may_call_what() -> None:
    assert OPERATIONS["ExchangeKey"]["security"] == []
    assert {"session_cookie": []} in OPERATIONS["ListJobs"]["security"]
    # What is not said at the operation is said for all: a key, and no cookie.
    assert "security" not in OPERATIONS["GenerateContent"]
    assert document()["security"] == [{"bearer": []}, {"api_key": []}]


def test_streams_tell_each_of_their_events() -> None:
    responses = OPERATIONS["WatchJob"]["responses"]
    assert "204" in responses and "204" not in OPERATIONS["WatchJobs"]["responses"]
    schema = responses["200"]["content"]["text/event-stream"]["schema"]
    assert schema["x-event-names"] == ["snapshot", "state", "progress", "preview", "text_delta", "log", "error"]
    preview = next(event for event in schema["oneOf"] if event["x-event"] == "preview")
    assert preview["properties"]["data"]["allOf"][0] == {"$ref": "#/components/schemas/WatchJobResponse"}
    merged = OPERATIONS["WatchEvents"]["responses"]["200"]["content"]["text/event-stream"]["schema"]["x-event-names"]
    assert {"jobs.snapshot", "assets.published", "items.saved", "unavailable", "resync", "error"} <= set(merged)
    assert len(merged) == len(set(merged))


def test_an_upload_is_the_file_itself() -> None:
    operation = OPERATIONS["CreateUpload"]
    assert list(operation["requestBody"]["content"]) == ["application/octet-stream"]
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "filename",
        "content_type",
        "size_bytes",
        "sha256",
        "import_key",
    }


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_shows_a_command(name: str) -> None:
    [sample] = OPERATIONS[name]["x-codeSamples"]
    assert sample["source"].startswith("curl ") and "{" not in sample["source"].split("'")[1]


async def test_it_is_served_to_everybody_and_once(world: World) -> None:
    response = await world.http.get("/openapi.json")
    assert response.status_code == 200
    assert response.json() == document()
    again = await world.http.get("/openapi.json", headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_dialects_tell_what_their_tables_say() -> None:
    fields = request_schema("OpenaiPostV1ImagesGenerations")
    assert set(fields["required"]) == {"prompt", "model"}
    assert fields["additionalProperties"] is False
    assert fields["properties"]["partial_images"]["type"] == ["integer", "null"]
    assert fields["properties"]["quality"]["enum"] == [*QUALITIES, None]
    assert fields["properties"]["output_compression"]["enum"] == [100, None]
    assert request_schema("FalPostRunByApp") is request_schema("FalPostQueueByApp")
    prediction = request_schema("ReplicatePostV1Predictions")
    assert prediction["required"] == ["version"]
    assert "prompt" in prediction["properties"]["input"]["properties"]


def test_dialects_answer_errors_in_their_own_shape() -> None:
    refused = OPERATIONS["ReplicatePostV1Predictions"]["responses"]["422"]["content"]["application/json"]["schema"]
    assert set(component(refused)["required"]) == {"title", "detail", "status"}
    assert "422" not in OPERATIONS["OpenaiPostV1Videos"]["responses"]
    assert OPERATIONS["FalPutStorageUpload"]["security"] == []

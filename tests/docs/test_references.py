"""The references say everything, and nothing that is not so."""

from __future__ import annotations

import re
import shlex

import grpc
import pytest

from atelier.type.v1 import error_pb2
from atelier_cli import exits
from atelier_cli.parser import build_parser
from gateway.app import EVENTS, OPEN_ROUTES
from gateway.http_rules import routes
from gateway.status import HTTP_STATUS, REASON_STATUS
from scripts import api_reference, cli_reference, dialects_reference, engine_features, settings_reference
from scripts.http_routes import installed_descriptors
from service_kit.errors import ErrorReason
from service_kit.settings import SETTINGS
from tests.docs.blocks import DOCS, blocks, pages

ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
HTTP_ONLY = {"malformed_request": {415, 431}, "out_of_range": {416}}
"""Reasons that hand-written answers of the gateway carry with a status that only HTTP has."""


def table_rows(name: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split(" | ")] for row in ROW.findall((DOCS / name).read_text("utf-8"))]


@pytest.mark.parametrize(
    "reference", [settings_reference, cli_reference, api_reference, dialects_reference, engine_features]
)
def test_a_generated_page_is_up_to_date(reference: object) -> None:
    name, render = reference.NAME, reference.render  # type: ignore[attr-defined]
    module = reference.__name__  # type: ignore[attr-defined]
    assert (DOCS / name).read_text("utf-8") == render(), f"run `python -m {module}`"


def test_every_setting_is_documented() -> None:
    documented = {row[0].strip("`") for row in table_rows("settings.md")}
    assert {setting.name for setting in SETTINGS} <= documented


def test_every_command_is_documented() -> None:
    text = (DOCS / "cli.md").read_text("utf-8")
    named = set(re.findall(r"^## atelier (.+)$", text, re.MULTILINE))
    assert {"up", "serve", "worker", "generate", "enhance", "config show", "migrate", "doctor"} <= named
    assert named == {name for name, _ in cli_reference.commands()}


def test_every_exit_code_is_documented() -> None:
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert codes == set(cli_reference.EXIT_CODES)


def test_every_rpc_that_a_server_answers_is_documented() -> None:
    # The engine's protocol is spoken between a worker and its child; it has no service.
    served = {
        f"{file.package}.{service.name}.{method.name}"
        for file in installed_descriptors().file
        for service in file.service
        for method in service.method
        if file.package.startswith("atelier.")
    }
    assert {method.full_name for method in api_reference.methods()} == served
    text = (DOCS / "api.md").read_text("utf-8")
    assert {name.rpartition(".")[2] for name in served} == set(re.findall(r"^### (\w+)$", text, re.MULTILINE))


def test_every_route_is_documented() -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    for path in (EVENTS, *OPEN_ROUTES):
        assert f"`GET {path}`" in text, path
    for route in routes():
        assert f"`{route.http_method} {route.template}`" in text, route.template


def test_every_error_reason_is_documented_once() -> None:
    reasons = [row[0].strip("`") for row in table_rows("errors.md") if row[0].strip("`").islower()]
    known = {
        value.name.removeprefix("ERROR_REASON_").lower()
        for value in error_pb2.ErrorReason.DESCRIPTOR.values
        if value.number
    }
    documented = [reason for reason in reasons if reason in known]
    assert sorted(documented) == sorted(known)


def test_the_statuses_of_the_reasons_are_those_of_the_gateway() -> None:
    rows = {row[0].strip("`"): row for row in table_rows("errors.md") if len(row) == 5 and row[0] != "reason"}
    assert rows
    for reason, row in rows.items():
        if reason == "---":
            continue
        own = REASON_STATUS.get(ErrorReason(reason))
        codes = [grpc.StatusCode[name] for name in CODE.findall(row[1])]
        statuses = ({own} if own else {HTTP_STATUS[code] for code in codes}) | HTTP_ONLY.get(reason, set())
        assert {int(text) for text in row[2].split(",")} == statuses, reason


def test_the_table_of_statuses_is_that_of_the_gateway() -> None:
    rows = [row for row in table_rows("errors.md") if len(row) == 2 and row[1].isdigit()]
    assert {row[0].strip("`"): int(row[1]) for row in rows} == {code.name: http for code, http in HTTP_STATUS.items()}


def shown_commands() -> list[tuple[str, str]]:
    found = []
    for page in pages():
        for block in blocks(page):
            if block.language not in ("bash", "console", "sh", ""):
                continue
            for line in block.text.splitlines():
                words = line.removeprefix("$ ")
                if words.startswith("atelier ") and not words.startswith("atelier COMMAND"):
                    found.append((page.name, words.partition(" #")[0]))
    return found


@pytest.mark.parametrize(("page", "command"), shown_commands())
def test_every_command_that_is_shown_exists(page: str, command: str) -> None:
    build_parser().parse_args(shlex.split(command)[1:])

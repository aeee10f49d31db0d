"""What docs/architecture.md names is where it says."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.blocks import DOCS, ROOT

PLACE = re.compile(r"`([\w/]+\.py):([\w.]+)`")


def places() -> list[tuple[str, str]]:
    return sorted(set(PLACE.findall((DOCS / "architecture.md").read_text("utf-8"))))


def test_the_trace_goes_through_every_part() -> None:
    parts = {path.split("/")[0] for path, _ in places()}
    assert parts == {"gateway", "router_service", "asset_service", "library_service", "workers", "service_kit"}


@pytest.mark.parametrize(("path", "name"), places())
def test_every_function_is_where_the_trace_says(path: str, name: str) -> None:
    scope: list[ast.stmt] = ast.parse((ROOT / path).read_text("utf-8")).body
    for part in name.split("."):
        found = [
            node
            for node in scope
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == part
        ]
        assert found, f"{path} has no {name}"
        scope = found[0].body

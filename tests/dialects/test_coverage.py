"""The table of what is proved with which client names tests and calls that exist, and leaves none out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.clients.coverage import Row, rows
from tests.clients.environments import clients

ROOT = Path(__file__).resolve().parents[2]
_CALL = re.compile(r"""^@?call\(\s*"([^"]+)\"""", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*")


@pytest.mark.parametrize("row", [row for row in rows() if row.test], ids=lambda row: f"{row.client}-{row.call}")
def test_a_row_names_a_test_that_exists(row: Row) -> None:
    file, _, name = row.test.partition("::")
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("client", clients(), ids=lambda client: client.name)
def test_every_call_of_a_client_is_a_row(client: object) -> None:
    folder: Path = client.folder  # type: ignore[attr-defined]
    (script,) = folder.glob("calls.*")
    named = _CALL.findall(script.read_text("utf-8"))
    assert named == [row.call for row in rows() if row.client == folder.name and not row.test]


@pytest.mark.parametrize("client", clients(), ids=lambda client: client.name)
def test_versions_are_names_and_versions_only(client: object) -> None:
    file: Path = client.versions  # type: ignore[attr-defined]
    if file.suffix == ".txt":
        assert all(_PLAIN.fullmatch(line) for line in file.read_text("utf-8").split())
    else:
        assert not re.search(r"https?:|[\^~*]", file.read_text("utf-8"))

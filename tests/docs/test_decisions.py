"""Every decision names tests that exist; those that no other part tests are tested here."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from atelier.asset.v1 import asset_pb2
from atelier.router.v1 import job_pb2
from atelier_worker.engine_client import EngineClient
from service_kit.settings import load
from tests.atelier_worker.scripted_engine import ENGINE
from tests.atelier_worker.test_engine_process import Notes, ended
from tests.docs.blocks import DOCS, ROOT

DECISIONS = sorted((DOCS / "adr").glob("[0-9]*.md"))
TESTED_BY = re.compile(r"^- Tested by: (tests/\S+\.py)::(\w+)$", re.MULTILINE)
PARTS = ("## Context", "## Decision", "## Consequences", "## Tests")


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_names_tests_that_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    assert [part for part in PARTS if part in text] == list(PARTS)
    named = TESTED_BY.findall(text)
    assert named
    assert len(named) == text.count("Tested by:"), "a line is not as it should be"
    for file, name in named:
        assert (ROOT / file).is_file(), file
        assert name in functions(ROOT / file), f"{file}::{name}"


def test_decisions_are_numbered_without_a_gap_and_listed() -> None:
    listed = (DOCS / "adr" / "README.md").read_text("utf-8")
    for number, page in enumerate(DECISIONS, start=1):
        assert page.name.startswith(f"{number:04d}-")
        title = page.read_text("utf-8").splitlines()[0].removeprefix("# ")
        assert f"- [{title}]({page.name})" in listed


def test_things_are_kept_as_long_as_was_decided() -> None:
    settings = load()
    assert settings.asset.asset_expiry == timedelta(days=7)
    assert settings.router.retention_jobs == timedelta(days=30)
    assert settings.router.idempotency_retention == timedelta(days=7)
    for part in (settings.router, settings.asset, settings.library):
        assert part.retention_events == timedelta(days=3)


def test_outputs_and_assets_may_be_withheld() -> None:
    assert "OUTPUT_STATE_WITHHELD" in job_pb2.OutputState.DESCRIPTOR.values_by_name
    assert "ASSET_STATE_WITHHELD" in asset_pb2.AssetState.DESCRIPTOR.values_by_name


def test_stubs_are_made_with_the_oldest_generator() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (generator,) = (text for text in project["build-system"]["requires"] if text.startswith("grpcio-tools"))
    assert generator == "grpcio-tools==1.75.1"
    stub = ROOT / str(job_pb2.__file__).replace("job_pb2.py", "router_service_pb2_grpc.py")
    assert "GRPC_GENERATED_VERSION = '1.75.1'" in stub.read_text("utf-8")


async def test_the_engine_gives_its_memory_back(tmp_path: Path) -> None:
    # MALLOC_TRIM_THRESHOLD_ is set for this worker: its operator has the last word.
    engine = EngineClient(ENGINE, {}, environ={**os.environ, "MALLOC_TRIM_THRESHOLD_": "1048576"})
    await engine.start()
    try:
        notes = Notes()
        await ended(engine, tmp_path / "task", "environment", notes)
    finally:
        await engine.stop()
    lines = {str(line) for kind, line in notes.heard if kind == "log"}
    assert {"MALLOC_ARENA_MAX=2", "MALLOC_MMAP_THRESHOLD_=262144", "MALLOC_TRIM_THRESHOLD_=1048576"} <= lines

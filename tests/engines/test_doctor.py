"""What `atelier doctor --config` says of weights on the real libraries: of whole ones, and of a wrong folder."""

from __future__ import annotations

import asyncio

import pytest

from atelier_worker.checkup import Finding, check_up
from tests.engines.tiny_qwen import write_tiny_qwen

_ENGINE = """
[[engine]]
name = "{name}"
engine = "atelier_worker.engines.transformers_engine:TransformersEngine"
worker_types = ["chat"]
device = "cpu"
  [[engine.models]]
  name = "chat"
  source = "./{name}"
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    folder = tmp_path_factory.mktemp("doctor")
    write_tiny_qwen(folder / "whole")
    (folder / "wrong").mkdir()
    file = folder / "worker.toml"
    names = ("whole", "wrong")
    file.write_text('[worker]\nconnect = "127.0.0.1:9"\n' + "".join(_ENGINE.format(name=name) for name in names))
    environ = {"ATELIER_WORKER_KEY": "k", "ATELIER_DATA_DIR": str(folder)}

    async def all_of_it() -> dict[str, Finding]:
        return {one.check: one async for one in check_up(file, environ)}

    return asyncio.run(all_of_it())


def test_whole_weights_are_well(found: dict[str, Finding]) -> None:
    assert found["engine whole"].ok
    assert found["weights of whole, chat"].ok
    assert found["memory for whole"].ok


def test_a_wrong_folder_is_named(found: dict[str, Finding]) -> None:
    bad = found["engine wrong"]
    assert not bad.ok
    assert "config.json" in bad.seen
    assert "chat" in bad.seen

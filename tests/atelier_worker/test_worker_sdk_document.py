"""The engine in docs/worker-sdk.md works, and is as short as promised."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from atelier_worker.engine_options import OptionsError
from tests.atelier_worker.conftest import ROOT, StartWorker
from tests.atelier_worker.fake_router import FakeRouter
from tests.atelier_worker.leases import lease

DOCUMENT = ROOT / "docs" / "worker-sdk.md"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the document's engine where it can be imported, and return its name."""
    found = re.search(r"```python\n# (\w+)\.py\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    module, source = found.groups()
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT / "workers")]))
    named = re.search(r"atelier worker --engine (\S+)", DOCUMENT.read_text("utf-8"))
    assert named is not None
    assert len(source.strip().splitlines()) < 40
    return named[1]


async def test_the_engine_of_the_document_works(router: FakeRouter, start_worker: StartWorker, engine: str) -> None:
    await start_worker(worker__engine=engine)
    session = await router.session()
    assert (list(session.hello.worker_types), session.hello.slots) == (["sdxl"], 2)
    await session.say(lease=lease("anything", quantity=2))
    outcome = await session.expect("outcome")
    assert [entry.receipt for entry in outcome.outputs.outputs] == ["receipt-0", "receipt-1"]
    assert router.assets.content(0).startswith(PNG)
    assert router.assets.content(0) != router.assets.content(1)
    # It made no renditions itself.
    assert [len(renditions) for _, renditions in router.assets.finished] == [2, 2]
    assert any(report.HasField("progress") for report in session.reports())


def test_the_engine_with_options_of_the_document_reads_them_strictly() -> None:
    found = re.search(r"## Options, read strictly\n\n```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    table = {"name": "tuned", "engine": "tuned:TunedEngine", "models": [{"name": "a", "source": "b/c"}]}
    assert names["TunedEngine"](table | {"memory_limit": "20GiB"}).limit_bytes == 20 << 30
    with pytest.raises(OptionsError) as caught:
        names["TunedEngine"](table | {"memory_limt": "20GiB"})
    assert str(caught.value) in DOCUMENT.read_text("utf-8")

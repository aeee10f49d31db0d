"""docs/workers.md: its file is read as it stands, and it names every metric and every key."""

from __future__ import annotations

import re
from pathlib import Path

from atelier_worker import status, worker
from atelier_worker.engine_options import COMMON_KEYS
from atelier_worker.task_watch import Limits
from atelier_worker.worker_file import read_worker_file
from service_kit.settings import for_tests
from tests.atelier_worker.conftest import ROOT
from tests.atelier_worker.fake_router import KEY

TEXT = (ROOT / "docs" / "workers.md").read_text("utf-8")


def test_the_file_of_the_document_is_one(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    (tmp_path / "worker.toml").write_text(found[1])
    (tmp_path / "worker.key").write_text(KEY)
    plan = read_worker_file(tmp_path / "worker.toml", for_tests(tmp_path))
    assert [engine.worker_name for engine in plan.engines] == ["attic-pictures", "attic-chat"]
    # What it calls the defaults are these.
    assert plan.engines[1].limits == Limits(deadline_s=3600.0)
    keys = {key for engine in plan.engines for key in engine.options}
    assert keys == set(COMMON_KEYS)


def test_the_document_names_every_metric_and_every_exit_code() -> None:
    metrics = [row.split()[2] for row in status.metrics_text([]).splitlines() if row.startswith("# TYPE")]
    assert re.findall(r"^\| `(atelier_worker_\w+)`", TEXT, re.MULTILINE) == metrics
    codes = {worker.EXIT_OK, worker.EXIT_USAGE, worker.EXIT_REFUSED, worker.EXIT_FAULT, 143}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)} == codes

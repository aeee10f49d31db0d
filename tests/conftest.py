"""What holds for every test: no setting of the shell leaks in, and generated examples are the same each run."""

from __future__ import annotations

import os

import hypothesis
import pytest

hypothesis.settings.register_profile("atelier", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("atelier")


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the `ATELIER_*` variables of the shell; a test that needs one sets it."""
    for name in [name for name in os.environ if name.startswith("ATELIER_")]:
        monkeypatch.delenv(name)

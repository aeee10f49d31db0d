"""The tests of engines run where their libraries are asked for: `make test-engines` installs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = [path.name for path in Path(__file__).parent.glob("test_*.py")]
collect_ignore = [] if os.environ.get("WITH_ENGINES") else _TESTS
# Before the libraries are imported: nothing is asked of the hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# Workers that tests start are also to keep to one thread.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep to one thread: the models are tiny, and the machine is shared."""
    if os.environ.get("WITH_ENGINES"):
        import torch

        torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def tiny_sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a tiny SDXL."""
    from tests.engines import tiny_sdxl

    return tiny_sdxl.save(tmp_path_factory.mktemp("tiny"))

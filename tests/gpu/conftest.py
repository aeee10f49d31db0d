"""What is tested and measured on a GPU; on a machine without one each test says so and is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

WITH_ENGINES = bool(os.environ.get("WITH_ENGINES"))
collect_ignore = [] if WITH_ENGINES else [path.name for path in Path(__file__).parent.glob("test_*.py")]
# Before the libraries are imported: nothing is asked of the hub.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _there_is_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device on this machine")


@pytest.fixture(scope="session")
def figures() -> Iterator[list[tuple[str, str]]]:
    """Collect what was measured; it is printed at the end as a table for docs/engines.md."""
    import torch

    rows: list[tuple[str, str]] = []
    yield rows
    device = torch.cuda.get_device_name(0)
    lines = [f"| {what} | {value} |" for what, value in [(device, f"torch {torch.__version__}"), ("---", "---"), *rows]]
    print("", *lines, sep="\n")

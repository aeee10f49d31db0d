"""docs/engines.md and docs/sketch.md say what is so: sizes are the router's, the example is what is in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from atelier_worker.engines import files
from router_service.domain import Quality, StageKind
from router_service.models import ASPECT_RATIOS, effective_size, effective_steps
from router_service.registry_domain import ModelRow
from tests.atelier_worker.engines.listener import IMAGE

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "engines.md").read_text(encoding="utf-8")
SKETCH = (DOCS / "sketch.md").read_text(encoding="utf-8")


def row(model: str, base_size: int) -> ModelRow:
    return ModelRow(name=model, position=1, stage=StageKind.GENERATE, worker_type=model, base_size=base_size)


@pytest.mark.parametrize(("model", "base_size"), (("sdxl", 1024), ("wan", 640)))
def test_the_sizes_are_those_that_the_router_gives(model: str, base_size: int) -> None:
    table = TEXT.split(f"| `{model}` | draft | standard | high |\n")[1].split("\n\n")[0]
    for aspect_ratio in ASPECT_RATIOS:
        sizes = [effective_size(row(model, base_size), aspect_ratio, quality) for quality in Quality]
        line = f"| {aspect_ratio} | " + " | ".join(f"{width} × {height}" for width, height in sizes) + " |"
        assert line in table
    assert table.count("×") == 3 * len(ASPECT_RATIOS)


def test_the_steps_are_those_that_the_router_gives() -> None:
    draft, standard, high = (effective_steps(row("sdxl", 1024), quality) for quality in Quality)
    assert f"A draft takes {draft} steps, standard quality {standard}, high quality {high}." in TEXT


def test_the_example_has_what_a_file_has() -> None:
    example = json.loads(re.findall(r"```json\n(.*?)```", SKETCH, re.DOTALL)[0])
    made = json.loads(files.made_with(IMAGE, 7, "sketch"))
    assert example.keys() == made.keys()
    assert example["settings"].keys() == made["settings"].keys()
    assert example["engine"] == made["engine"]

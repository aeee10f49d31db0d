"""docs/engines.md and docs/sketch.md say what is so: sizes are the router's, the example is what is in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from atelier_cli.comfy_graph import find
from atelier_worker.engines import files
from atelier_worker.engines.comfyui_engine.engine import ComfyEngine
from atelier_worker.engines.diffusers_engine.settings import read_settings as read_diffusers
from atelier_worker.engines.openai_engine.options import read_options as read_openai
from atelier_worker.engines.transformers_engine.options import read_options as read_transformers
from atelier_worker.worker_file import read_worker_file
from router_service.domain import StageKind
from router_service.generation_domain import Quality
from router_service.models import ASPECT_RATIOS, effective_size, effective_steps
from router_service.registry_domain import ModelRow
from service_kit.comfy_template import Template, read_workflow, write_template
from service_kit.settings import for_tests
from tests.atelier_worker.engines.listener import IMAGE
from tests.atelier_worker.fake_router import KEY
from tests.docs.blocks import DOCS, ROOT, blocks

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


READERS: dict[str, Callable[[Mapping[str, object]], object]] = {
    "comfyui": lambda table: ComfyEngine(table).models,
    "diffusers": read_diffusers,
    "openai": read_openai,
    "sketch": lambda _: None,
    "transformers": read_transformers,
}
PAGES = (ROOT / "README.md", DOCS / "engines.md")
TOML = [block.text for page in PAGES for block in blocks(page) if block.language == "toml"]


WORKFLOW = ROOT / "tests" / "data" / "comfyui" / "workflows" / "sdxl.json"


def template_of(file: Path) -> Template:
    workflow = read_workflow(file.read_bytes())
    found = find(workflow)
    return Template(workflow, {name: tuple(places) for name, places in found.inputs.items()}, tuple(found.outputs))


@pytest.mark.parametrize("text", TOML, ids=lambda text: " ".join(re.findall(r'engine = "(\w+)"', text)))
def test_the_files_for_workers_are_understood(tmp_path: Path, text: str) -> None:
    for key in ("worker.key", "upstream.key"):
        (tmp_path / key).write_text(f"{KEY}\n")
        (tmp_path / key).chmod(0o600)
    for template in re.findall(r'template = "([^"]+)"', text):
        (tmp_path / template).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / template).write_text(write_template(template_of(WORKFLOW)))
    (tmp_path / "worker.toml").write_text(text)
    plan = read_worker_file(tmp_path / "worker.toml", for_tests(tmp_path / "data", worker__key=KEY))
    assert plan.engines
    for engine in plan.engines:
        READERS[engine.engine](engine.options)

"""A stand-in for ComfyUI, and engines in front of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atelier_cli.__main__ import main
from atelier_worker.engines.comfyui_engine import ComfyEngine
from atelier_worker.engines.comfyui_engine.prompt_run import Patience
from tests.atelier_worker.comfyui.serving import Server
from tests.atelier_worker.comfyui.stand_in import StandIn

WORKFLOWS = Path(__file__).parents[2] / "data" / "comfyui" / "workflows"
QUICK = Patience(reach_s=5.0, lost_s=1.0, look_s=0.3, listen_s=0.02, show_s=0.0, stop_s=5.0)

MakeEngine = Callable[..., ComfyEngine]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """What the stand-in and replays are served by."""
    with Server().running() as running:
        yield running


@pytest.fixture
def comfyui(server: Server, tmp_path: Path) -> Iterator[StandIn]:
    """The stand-in; `url` is where it listens."""
    (tmp_path / "comfyui").mkdir()
    stand_in = StandIn(tmp_path / "comfyui")
    with server.use(stand_in.app()) as stand_in.url:
        yield stand_in


def template_of(workflow: str | dict[str, Any], folder: Path, *options: str) -> Path:
    """Import a workflow as an operator does, and return its template."""
    file = WORKFLOWS / f"{workflow}.json" if isinstance(workflow, str) else folder / "workflow.json"
    if not isinstance(workflow, str):
        file.write_text(json.dumps(workflow))
    out = folder / f"{file.stem}.template.json"
    assert main(["comfy", "import", str(file), "--out", str(out), *options]) == 0
    return out


@pytest.fixture
def make_engine(tmp_path: Path) -> MakeEngine:
    """Makes engines: `make_engine(url, workflow, *options of the import, **options of the engine)`."""

    def make(
        url: str, workflow: str | dict[str, Any], *options: str, patience: Patience = QUICK, **more: Any
    ) -> ComfyEngine:
        model: dict[str, Any] = {"name": "sdxl", "template": str(template_of(workflow, tmp_path, *options))}
        model |= {name: more.pop(name) for name in ("lora_names",) if name in more}
        table = {"engine": "comfyui", "name": "comfy", "url": url, "models": [model]} | more
        return ComfyEngine(table, patience=patience)

    return make

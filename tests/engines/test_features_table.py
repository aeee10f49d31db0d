"""The table of features, cell by cell on tiny weights: a yes changes what is made, anything else is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from atelier_worker.engine import Chat, EngineError, Lora, Message, Reference, Task
from atelier_worker.engines.diffusers_engine import DiffusersEngine, sdxl_features, wan_features
from atelier_worker.engines.features import NAMES, asked
from scripts.engine_features import tables
from tests.atelier_worker.engines.listener import ENHANCE, IMAGE, VIDEO, Listener
from tests.engines import tiny_sdxl, tiny_wan

pytestmark = [
    # diffusers hands a tensor to numpy in the old way.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]
TABLE = tables()["diffusers"]
CELLS = [(pipeline, feature) for pipeline, row in TABLE.items() for feature in row]
SHAPES: dict[str, tiny_wan.Shape] = {
    wan_features.TEXT: "text",
    wan_features.TEXT_OR_FIRST: "text_and_first_frame",
    wan_features.FIRST: "first_frame",
    wan_features.FIRST_AND_LAST: "first_and_last_frame",
    wan_features.FREE: "free_frames",
}
BEGINNINGS = ("text_to_image", "text_to_video", "first_frame", "first_and_last_frame")
SAID = Chat((Message("user", "hello"),))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    """One engine with a model for each column of the table, named like it."""
    folder = tmp_path_factory.mktemp("table")
    models = [
        {"name": name, "source": str(tiny_wan.save(shape, folder / shape)), "loras": {"ink": wan_lora}}
        for wan_lora in [str(tiny_wan.save_lora(folder, "wan.safetensors"))]
        for name, shape in SHAPES.items()
    ]
    lora = str(tiny_sdxl.save_lora(folder, "sdxl.safetensors"))
    sdxl = {"name": sdxl_features.SDXL, "source": str(tiny_sdxl.save(folder / "sdxl")), "loras": {"ink": lora}}
    tiny_sdxl.save_ip_adapter(folder / "style")
    guided = sdxl | {
        "name": sdxl_features.GUIDED,
        "ip_adapter": {"source": str(folder / "style")},
        "controlnet": {"source": str(tiny_sdxl.save_controlnet(folder / "control")), "reads": "picture"},
    }
    return DiffusersEngine({"device": "cpu", "models": [sdxl, guided, *models]})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red and a blue picture, a white one and one that is white on its left."""
    tmp_path = tmp_path_factory.mktemp("pictures")
    for name, colour in {"red": (200, 20, 20), "blue": (20, 20, 200), "white": (255, 255, 255)}.items():
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    half = Image.new("RGB", (64, 64))
    half.paste((255, 255, 255), (0, 0, 32, 64))
    half.save(tmp_path / "half.png")
    return tmp_path


def test_every_pipeline_of_the_table_has_weights_here() -> None:
    assert {*sdxl_features.FEATURES, *SHAPES} == TABLE.keys()


def reference(folder: Path, kind: str, picture: str) -> Reference:
    return Reference(kind, 0.5, folder / f"{picture}.png", "image/png")


def beginning(pipeline: str, feature: str, folder: Path, picture: str = "red") -> Task:
    """A task for a pipeline that begins with what a feature is made from, and asks for nothing else."""
    task = replace(IMAGE if pipeline in sdxl_features.FEATURES else VIDEO, model=pipeline, steps=3, width=64, height=64)
    task = replace(task, frames=5, fps=8) if task.format == "video" else task
    match feature:
        case "text_to_image" | "text_to_video":
            return replace(task, format="image" if feature == "text_to_image" else "video", frames=5, fps=8)
        case "mask":
            mask = reference(folder, "mask", "half" if picture == "red" else "white")
            kept = [reference(folder, "init", "blue")] if TABLE[pipeline]["init"] is True else []
            return replace(task, references=(*kept, mask))
        case "first_and_last_frame":
            ends = reference(folder, "first_frame", "red"), reference(folder, "last_frame", picture)
            return replace(task, references=ends)
        case _:
            return replace(task, references=(reference(folder, feature, picture),))


def pair(pipeline: str, feature: str, folder: Path) -> tuple[Task, Task]:
    """Two tasks that differ in a feature alone; the first one asks for it."""
    plain = beginning(pipeline, next(name for name in BEGINNINGS if TABLE[pipeline][name] is True), folder)
    match feature:
        case "negative_prompt":
            return replace(plain, negative_prompt="fog"), plain
        case "guidance":
            return replace(plain, guidance=2.0), plain
        case "scheduler":
            return replace(plain, scheduler="dpmpp_2m"), plain
        case "loras":
            return replace(plain, loras=(Lora("ink"),)), plain
        case "text_to_image" | "text_to_video":
            task = beginning(pipeline, feature, folder)
            return task, replace(task, prompt="a boat at night")
        case "enhance":
            return replace(ENHANCE, model=pipeline), plain
        case "chat" | "stop" | "max_tokens" | "temperature" | "top_p":
            values: dict[str, Any] = {"stop": ("x",), "max_tokens": 4, "temperature": 0.5, "top_p": 0.5}
            chat = replace(SAID, **{name: value for name, value in values.items() if name == feature})
            return replace(ENHANCE, stage="chat", model=pipeline, chat=chat), plain
        case _:
            return beginning(pipeline, feature, folder), beginning(pipeline, feature, folder, "blue")


class Made:
    """What tasks make, without what their files say of themselves; each is made once."""

    def __init__(self, engine: DiffusersEngine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._made: dict[str, bytes] = {}

    def __call__(self, task: Task) -> bytes:
        if repr(task) not in self._made:
            workdir = self._folder / str(len(list(self._folder.iterdir())))
            workdir.mkdir()
            listener = Listener(workdir)
            self._engine.run(task, listener)
            self._made[repr(task)] = content(listener.delivered[0])
        return self._made[repr(task)]


@pytest.fixture(scope="module")
def made(engine: DiffusersEngine, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(engine, tmp_path_factory.mktemp("made"))


def content(path: Path) -> bytes:
    if path.suffix == ".png":
        with Image.open(path) as image:
            return image.tobytes()
    with av.open(str(path)) as container:
        return b"".join(frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0))


@pytest.mark.parametrize(("pipeline", "feature"), CELLS)
def test_a_cell_is_what_the_engine_does(made: Made, pictures: Path, pipeline: str, feature: str) -> None:
    support = TABLE[pipeline][feature]
    task, other = pair(pipeline, feature, pictures)
    assert feature in asked(task)
    if support is True:
        assert made(task) != made(other)
        return
    with pytest.raises(EngineError) as refused:
        made(task)
    assert (str(refused.value), refused.value.retryable) == (support, False)


def test_the_table_names_every_feature() -> None:
    assert all(row.keys() == NAMES.keys() for row in TABLE.values())

"""The table of features of the engine transformers, cell by cell on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from atelier_worker.engine import EngineError, Lora, Reference, Task
from atelier_worker.engines.features import OF_TEXTS, asked
from atelier_worker.engines.transformers_engine import TransformersEngine
from scripts.engine_features import tables
from tests.atelier_worker.engines.listener import IMAGE, VIDEO
from tests.engines.chat_tasks import Heard, chat_task, enhance_task
from tests.engines.tiny_qwen import write_tiny_qwen

((MODEL, ROW),) = tables()["transformers"].items()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    folder = write_tiny_qwen(tmp_path_factory.mktemp("tiny"))
    models = [{"name": "tiny", "source": str(folder)}]
    return TransformersEngine({"engine": "transformers", "device": "cpu", "models": models})


def written(engine: TransformersEngine, task: Task) -> str:
    heard = Heard()
    engine.run(task, heard)
    return heard.text


def of_a_text(engine: TransformersEngine, feature: str) -> tuple[Task, Task]:
    """Two tasks that differ in a feature alone, or in what they say; the first one asks for it."""
    match feature:
        case "enhance":
            return enhance_task("a kite over dunes"), enhance_task("a boat at night")
        case "chat":
            return chat_task("Hello"), chat_task("Goodbye")
        case "stop":
            return chat_task(stop=(written(engine, chat_task())[3],)), chat_task()
        case "max_tokens":
            return chat_task(max_tokens=4), chat_task()
        case "temperature":
            return chat_task(temperature=0.0), chat_task(temperature=1.5)
        case _:
            return chat_task(temperature=1.0, top_p=0.05), chat_task(temperature=1.0)


def of_a_picture(feature: str) -> Task:
    """A task of the other stage that asks for a feature."""
    match feature:
        case "text_to_image":
            return IMAGE
        case "text_to_video":
            return VIDEO
        case "negative_prompt":
            return replace(IMAGE, negative_prompt="fog")
        case "guidance":
            return replace(IMAGE, guidance=2.0)
        case "scheduler":
            return replace(IMAGE, scheduler="euler")
        case "loras":
            return replace(IMAGE, loras=(Lora("ink"),))
        case "first_and_last_frame":
            ends = (Reference(kind, 1.0, Path("a.png"), "image/png") for kind in ("first_frame", "last_frame"))
            return replace(VIDEO, references=tuple(ends))
        case _:
            return replace(IMAGE, references=(Reference(feature, 1.0, Path("a.png"), "image/png"),))


@pytest.mark.parametrize("feature", ROW)
def test_a_cell_is_what_the_engine_does(engine: TransformersEngine, feature: str) -> None:
    if feature in OF_TEXTS:
        task, other = of_a_text(engine, feature)
        assert (ROW[feature], feature in asked(task)) == (True, True)
        assert written(engine, task) != written(engine, other)
        return
    task = of_a_picture(feature)
    assert feature in asked(task)
    with pytest.raises(EngineError) as refused:
        engine.run(task, Heard())
    assert str(refused.value) == ROW[feature]

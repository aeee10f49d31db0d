"""The table of features of the engine openai, cell by cell: a yes changes what is asked, anything else is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atelier_worker.engine import EngineError, Lora, Reference, Task
from atelier_worker.engines.features import NAMES, OF_TEXTS, asked
from atelier_worker.engines.openai_engine import OpenAIEngine
from scripts.engine_features import tables
from tests.atelier_worker.engines.listener import ENHANCE, IMAGE
from tests.atelier_worker.openai.stand_in import (
    DONE,
    StandIn,
    asks,
    encoded,
    engine_for,
    event,
    form_of,
    heard,
    picture,
    streams,
)

TABLE = tables()["openai"]
CELLS = [(column, feature) for column, row in TABLE.items() for feature in row]
# The field of a request in which a feature is said.
FIELDS = {"text_to_image": "prompt", "init": "image", "mask": "mask", "enhance": "messages", "chat": "messages"}
_PICTURE = replace(IMAGE, width=64, height=48)
_VIDEO = replace(_PICTURE, format="video", frames=8, fps=8)


def engine_of(upstream: StandIn, column: str) -> OpenAIEngine:
    """An engine with one model, of the kind of a column and named like it."""
    pictures = {"serves": ["images"], "api": column, "sizes": ["64x48"]}
    return engine_for(upstream, model={"name": column, **(pictures if column != "chat" else {})})


def pair(column: str, feature: str, folder: Path) -> tuple[Task, Task]:
    """Two tasks that differ in a feature alone, or in what they say; the first one asks for it."""
    if feature in OF_TEXTS:
        return of_a_text(feature)
    changes: dict[str, Any] = {
        "negative_prompt": "rain",
        "guidance": 7.5,
        "scheduler": "euler",
        "loras": (Lora("ink"),),
    }
    match feature:
        case "text_to_image":
            return _PICTURE, replace(_PICTURE, prompt="a boat at night")
        case "text_to_video":
            return _VIDEO, replace(_VIDEO, prompt="a boat at night")
        case "first_and_last_frame":
            return replace(
                _VIDEO, references=(reference(folder, "first_frame"), reference(folder, "last_frame"))
            ), _VIDEO
        case "first_frame" | "last_frame":
            return replace(_VIDEO, references=(reference(folder, feature),)), _VIDEO
        case "mask":
            kept = (reference(folder, "init"),) if TABLE[column]["init"] is True else ()
            start = replace(_PICTURE, references=kept)
            return replace(start, references=(reference(folder, "mask"), *start.references)), start
        case "init":
            other = replace(_PICTURE, references=(reference(folder, "init", "blue"),))
            return replace(_PICTURE, references=(reference(folder, "init"),)), other
        case "style" | "composition":
            return replace(_PICTURE, references=(reference(folder, feature),)), _PICTURE
        case _:
            return replace(_PICTURE, **{feature: changes[feature]}), _PICTURE


def of_a_text(feature: str) -> tuple[Task, Task]:
    values: dict[str, Any] = {"stop": ("x",), "max_tokens": 4, "temperature": 0.5, "top_p": 0.5}
    match feature:
        case "enhance":
            return ENHANCE, replace(ENHANCE, prompt="a boat at night")
        case "chat":
            return asks("Hello"), asks("Goodbye")
        case _:
            return asks(**{feature: values[feature]}), asks()


def reference(folder: Path, kind: str, colour: str = "red") -> Reference:
    (folder / f"{colour}.png").write_bytes(picture(colour=colour))
    return Reference(kind, 0.5, folder / f"{colour}.png", "image/png")


def sent(upstream: StandIn) -> dict[str, Any]:
    """The fields of the newest request."""
    newest = upstream.asked[-1]
    return dict(form_of(newest)) if newest.path.endswith("/edits") else newest.json


@pytest.mark.parametrize(("column", "feature"), CELLS)
def test_a_cell_is_what_the_engine_does(column: str, feature: str, upstream: StandIn, tmp_path: Path) -> None:
    support, engine = TABLE[column][feature], engine_of(upstream, column)
    task, other = (replace(one, model=column) for one in pair(column, feature, tmp_path))
    assert feature in asked(task)
    if support is not True:
        with pytest.raises(EngineError) as refused:
            engine.run(task, heard(tmp_path))
        assert (str(refused.value), refused.value.retryable) == (support, False)
        assert not upstream.asked
        return
    upstream.answer(streams(event("A kite.", "stop"), DONE) if feature in OF_TEXTS else encoded(picture()))
    context = heard(tmp_path)
    engine.run(task, context)
    assert context.text or context.delivered
    first = sent(upstream)
    engine.run(other, heard(tmp_path))
    second = sent(upstream)
    different = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    assert different == {FIELDS.get(feature, feature)}


def test_the_table_names_every_feature() -> None:
    assert all(row.keys() == NAMES.keys() for row in TABLE.values())

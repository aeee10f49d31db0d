"""Rows of features: complete, and what tasks are refused by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from atelier_worker.engine import Chat, EngineError, Lora, Message, Reference
from atelier_worker.engines import features
from scripts.engine_features import tables
from tests.atelier_worker.engines.listener import ENHANCE, IMAGE, VIDEO
from tests.docs.blocks import ROOT

SAID = Chat((Message("user", "hello"),))


def reference(kind: str, strength: float = 1.0) -> Reference:
    return Reference(kind, strength, Path("a.png"), "image/png")


@pytest.mark.parametrize(
    ("task", "asked"),
    (
        (IMAGE, {"text_to_image"}),
        (replace(IMAGE, references=(reference("init"), reference("mask"))), {"init", "mask"}),
        (replace(IMAGE, references=(reference("style"),)), {"style", "text_to_image"}),
        (replace(IMAGE, references=(reference("init", 0.0),)), {"text_to_image"}),
        (VIDEO, {"text_to_video"}),
        (replace(VIDEO, references=(reference("first_frame"),)), {"first_frame"}),
        (replace(VIDEO, references=(reference("last_frame"),)), {"last_frame"}),
        (replace(VIDEO, references=(reference("last_frame"), reference("first_frame"))), {"first_and_last_frame"}),
        (
            replace(VIDEO, negative_prompt="fog", guidance=0.0, scheduler="euler", loras=(Lora("ink"),)),
            {"text_to_video", "negative_prompt", "guidance", "scheduler", "loras"},
        ),
        (ENHANCE, {"enhance"}),
        (replace(ENHANCE, stage="chat", chat=SAID), {"chat"}),
        (
            replace(ENHANCE, stage="chat", chat=replace(SAID, stop=("x",), max_tokens=1, temperature=0.0, top_p=1.0)),
            {"chat", "stop", "max_tokens", "temperature", "top_p"},
        ),
    ),
)
def test_what_a_task_asks_for(task: object, asked: set[str]) -> None:
    assert set(features.asked(task)) == asked  # type: ignore[arg-type]


def test_a_row_is_complete_and_each_feature_refused_in_its_own_words() -> None:
    able = features.row(("text_to_image", "guidance"), "Only pictures.", {"mask": "No mask."})
    assert able.keys() == features.NAMES.keys()
    features.refuse(able, replace(IMAGE, guidance=3.0))
    with pytest.raises(EngineError, match=r"^No mask\.$"):
        features.refuse(able, replace(IMAGE, references=(reference("mask"),)))
    with pytest.raises(EngineError, match=r"^Only pictures\.$"):
        features.refuse(able, VIDEO)
    with pytest.raises(EngineError, match="does not know the reference kind pose"):
        features.refuse(able, replace(IMAGE, references=(reference("pose"),)))


@pytest.mark.parametrize(("can", "refused"), ((("paint",), {}), ((), {"paint": "No."}), (("chat",), {"chat": "No."})))
def test_a_row_names_what_there_is_and_once(can: tuple[str, ...], refused: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="each feature once"):
        features.row(can, "No.", refused)


THROUGH_THE_CELLS = {
    "diffusers": "tests/engines/test_features_table.py",
    "openai": "tests/atelier_worker/openai/test_upstream_features.py",
    "transformers": "tests/engines/test_features_texts.py",
}
"""Where the cells of an engine's table are tried on the real engine."""


def test_every_table_has_a_test_that_goes_through_it() -> None:
    assert tables().keys() == THROUGH_THE_CELLS.keys()
    for engine, file in THROUGH_THE_CELLS.items():
        text = (ROOT / file).read_text("utf-8")
        assert f'tables()["{engine}"]' in text or f"{engine}_engine.features import" in text


def test_every_row_of_every_table_is_complete() -> None:
    for pipelines in tables().values():
        for able in pipelines.values():
            assert able.keys() == features.NAMES.keys()
            assert all(answer is True or str(answer).endswith(".") for answer in able.values())

"""Richer prompts from an upstream: the shared templates, without prefaces and thoughts, within the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from atelier_worker.engine import EngineError
from atelier_worker.engines.transformers_engine.templates import template_for
from tests.atelier_worker.engines.listener import ENHANCE
from tests.atelier_worker.openai.stand_in import DONE, StandIn, engine_for, event, heard, refuses, streams


def test_the_prompt_is_asked_for_with_the_template_of_its_model(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(event("A red kite "), event("over dunes, dusk.", "stop"), event(usage=(200, 9)), DONE))
    context = heard(tmp_path)
    engine_for(upstream).run(replace(ENHANCE, model="sdxl", prompt="a kite"), context)
    asked, template = upstream.asked[0].json, template_for("sdxl")
    assert [one["content"] for one in asked["messages"]] == [template.system, "a kite"]
    assert asked["temperature"] == template.temperature
    assert "".join(context.text) == "A red kite over dunes, dusk."
    assert context.lines[0] == f"{template.name}, written by the upstream's Qwen/Qwen3-8B"
    assert context.finishes == [("stop", None, None)]
    assert context.written_by == ("chat", "enhance/sdxl", "v1")


def test_thoughts_a_preface_and_what_follows_are_left_out(upstream: StandIn, tmp_path: Path) -> None:
    said = '<think>Hm, a kite.</think>\n\nSure! Here is the enhanced prompt:\n\n"A red kite, dusk."\n\nShall I go on?'
    upstream.answer(streams(*(event(letter) for letter in said), event(finish="stop"), DONE))
    context = heard(tmp_path)
    engine_for(upstream).run(ENHANCE, context)
    assert "".join(context.text) == "A red kite, dusk."


def test_a_prompt_that_is_too_long_is_cut_and_the_upstream_left(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(*(event(f"kite number {number}, ") for number in range(100)), DONE))
    context = heard(tmp_path)
    engine_for(upstream).run(replace(ENHANCE, model="sdxl"), context)
    assert "".join(context.text).startswith("kite number 0, kite number 1")
    assert context.warnings == ["The enhanced prompt was cut: enhance/sdxl v1 keeps it within 75 tokens."]
    assert context.finishes == [("length", None, None)]


def test_a_preface_alone_is_not_yet_written_and_can_be_tried_again(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(
        streams(event("<think>Hm"), cut=True),
        refuses(500, "oh"),
        streams(event("A red kite.", "stop"), DONE),
    )
    context = heard(tmp_path)
    engine_for(upstream).run(ENHANCE, context)
    assert "".join(context.text) == "A red kite."
    assert len(upstream.asked) == 3


def test_a_blank_prompt_and_an_empty_answer_fail(upstream: StandIn, tmp_path: Path) -> None:
    upstream.answer(streams(event("<think>…</think>  ", "stop"), DONE))
    with pytest.raises(EngineError, match="blank"):
        engine_for(upstream).run(replace(ENHANCE, prompt=" "), heard(tmp_path))
    with pytest.raises(EngineError, match="wrote no prompt") as failed:
        engine_for(upstream).run(ENHANCE, heard(tmp_path))
    assert failed.value.retryable
    with pytest.raises(EngineError, match="no model that enhances"):
        engine_for(upstream, model={"serves": ["chat"]}).run(ENHANCE, heard(tmp_path))

"""Richer prompts with a real model of transformers: what is asked of it, what is kept, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from atelier_worker.engine import EngineError
from atelier_worker.engines.transformers_engine.budget import tokens_of
from tests.engines.chat_tasks import enhance_task
from tests.engines.test_chat import make_engine, said
from tests.engines.tiny_qwen import CHAT_TEMPLATE, write_tiny_qwen

WITHOUT_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
THINKING = CHAT_TEMPLATE.replace("assistant\n{%", "assistant\n<think>\n{%")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen(tmp_path_factory.mktemp("tiny"))


def speak(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """Have the model say a text, token by token, and end."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    real = transformers.Qwen2ForCausalLM.forward
    said: list[int] = []

    def forward(self: Any, **arguments: Any) -> Any:
        out = real(self, **arguments)
        out.logits[:] = torch.nn.functional.one_hot(torch.tensor(tokens[len(said)]), out.logits.shape[-1]) * 1e4
        said.append(1)
        return out

    monkeypatch.setattr(transformers.Qwen2ForCausalLM, "forward", forward)
    monkeypatch.setattr("atelier_worker.engines.transformers_engine.decoder.PROMPT_PIECE", 8192)


def test_a_prompt_becomes_richer_within_its_budget_and_says_so(folder: Path) -> None:
    heard = said(make_engine(folder), enhance_task("a red kite", model="sdxl"))

    assert heard.logs == ["enhance/sdxl v1, written by tiny"]
    assert len(heard.pieces) > 5
    assert 0 < tokens_of(heard.text) <= 75
    assert heard.warnings == ["The enhanced prompt was cut: enhance/sdxl v1 keeps a prompt for sdxl within 75 tokens."]
    assert heard.phases[-1] == "writing"
    assert heard.ended == ("length", None, None)
    assert heard.written_by == ("tiny", "enhance/sdxl", "v1")


def test_a_seed_gives_the_same_prompt(folder: Path) -> None:
    engine = make_engine(folder)
    texts = [said(engine, enhance_task("a red kite", seed=seed)).text for seed in (1, 1, 2)]

    assert texts[0] == texts[1] != texts[2]


def test_what_is_wrapped_around_it_is_never_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speak(monkeypatch, folder, 'Sure! Here is the prompt:\n\n"A red kite, low sun."\n\nEnjoy!')
    heard = said(make_engine(folder), enhance_task("a red kite"))

    assert heard.text == "A red kite, low sun."
    assert heard.warnings == []


def test_a_model_that_knows_no_system_is_told_by_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_qwen(tmp_path, template=WITHOUT_SYSTEM)
    speak(monkeypatch, folder, "A red kite.")

    assert said(make_engine(folder), enhance_task("a red kite")).text == "A red kite."


def test_thoughts_are_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_qwen(tmp_path, template=THINKING)
    speak(monkeypatch, folder, "The user wants a kite.\n</think>\n\nA red kite.")
    heard = said(make_engine(folder), enhance_task("a red kite"))

    assert heard.text == "A red kite."
    assert heard.phases == ["loading tiny", "thinking", "writing"]


def test_a_model_that_writes_nothing_fails_to_be_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speak(monkeypatch, folder, "")
    with pytest.raises(EngineError, match="wrote no prompt") as told:
        said(make_engine(folder), enhance_task("a red kite"))
    assert told.value.retryable


def test_a_blank_and_an_endless_prompt_are_refused(folder: Path) -> None:
    engine = make_engine(folder)
    with pytest.raises(EngineError, match="prompt is blank"):
        said(engine, enhance_task("  "))
    with pytest.raises(EngineError, match=r"has \d{4} tokens together with enhance/sdxl v1; .* at most 4096"):
        said(engine, enhance_task("kite " * 1000))

"""What the sketch engine says in a conversation: always the same, within what was asked for, and what it counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from atelier_worker.engine import Cancelled, Chat, EngineError, Message
from atelier_worker.engines.sketch import SketchEngine
from tests.atelier_worker.engines.listener import ENHANCE, Listener

ASKED = "a lighthouse on a cliff in a storm"
TALK = replace(ENHANCE, stage="chat", prompt="", chat=Chat((Message("system", "Be brief."), Message("user", ASKED))))


def said(folder: Path, **changes: object) -> Listener:
    """Run a conversation with some changes."""
    assert TALK.chat is not None
    listener = Listener(folder)
    SketchEngine({"step_delay": "0"}).run(replace(TALK, chat=replace(TALK.chat, **changes)), listener)  # type: ignore[arg-type]
    return listener


def test_it_says_how_it_would_draw_what_was_asked_for_word_by_word(tmp_path: Path) -> None:
    listener = said(tmp_path)
    text = "".join(listener.text)
    assert f"“{ASKED}”" in text
    assert "lighthouse" in text.replace(ASKED, "")
    assert len(listener.text) == len(text.split())
    assert listener.finishes == [("stop", 10, len(listener.text))]
    assert "".join(said(tmp_path).text) == text


def test_the_last_message_of_the_user_and_the_seed_decide(tmp_path: Path) -> None:
    first = said(tmp_path).text
    later = said(tmp_path, messages=(Message("user", "a kite"), Message("assistant", "…"), Message("user", ASKED)))
    assert later.text == first
    assert said(tmp_path, messages=(Message("user", "a kite over dunes"),)).text != first


def test_it_ends_after_so_many_tokens(tmp_path: Path) -> None:
    whole = said(tmp_path).text
    listener = said(tmp_path, max_tokens=5)
    assert listener.text == whole[:5]
    assert listener.finishes == [("length", 10, 5)]
    assert said(tmp_path, max_tokens=len(whole)).finishes[0][0] == "stop"


@pytest.mark.parametrize(("stop", "before"), ((("draw ", "begin"), "I would "), (("I would",), "")))
def test_it_ends_before_a_stop_text(tmp_path: Path, stop: tuple[str, ...], before: str) -> None:
    listener = said(tmp_path, stop=stop)
    assert "".join(listener.text) == before
    assert [reason for reason, _, _ in listener.finishes] == ["stop"]


@pytest.mark.parametrize(
    ("content", "phrase"),
    (("", "Name something"), ("   ", "Name something"), ("ein Haus am Meer", "only talk in English")),
)
def test_it_says_what_it_cannot_do(tmp_path: Path, content: str, phrase: str) -> None:
    assert phrase in "".join(said(tmp_path, messages=(Message("user", content),)).text)
    assert "Name something" in "".join(said(tmp_path, messages=(Message("system", "Be brief."),)).text)


def test_a_cancelled_conversation_ends_at_once(tmp_path: Path) -> None:
    listener = Listener(tmp_path, cancel_when=lambda heard: len(heard.text) == 3)
    with pytest.raises(Cancelled):
        SketchEngine({"step_delay": "0"}).run(TALK, listener)
    assert listener.finishes == []


def test_without_a_conversation_there_is_nothing_to_say(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no conversation"):
        SketchEngine({}).run(replace(TALK, chat=None), Listener(tmp_path))

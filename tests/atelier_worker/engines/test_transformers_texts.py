"""Text as it is made: whole characters, nothing of a stop text, no thinking, however the pieces are broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier_worker.engines.transformers_engine.texts import Detokenizer, StopTexts, Thinking

TEXT = "Käse 🧀, 雪山の狐 and a naïve fox.\n\U0001f468\u200d\U0001f33e!"


def of_bytes(tokens: Sequence[int]) -> str:
    """Decode tokens that are bytes, as byte-level tokenizers do."""
    return bytes(tokens).decode("utf-8", "replace")


def of_byte_groups(tokens: Sequence[int]) -> str:
    """Decode tokens that are bytes, as tokenizers with a fallback do: a group that is no text is no text as a whole."""
    try:
        return bytes(tokens).decode("utf-8")
    except UnicodeDecodeError:
        return "\ufffd" * len(tokens)


def of_words(tokens: Sequence[int]) -> str:
    """Decode tokens that are words, with a space between two but none before the first."""
    return " ".join("ab"[token] for token in tokens)


@pytest.mark.parametrize("decode", [of_bytes, of_byte_groups])
def test_a_character_comes_whole(decode: Callable[[Sequence[int]], str]) -> None:
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.feed(byte) for byte in TEXT.encode()]

    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + detokenizer.end() == TEXT
    assert max(map(len, pieces)) == 1  # each as soon as it is there


def test_the_space_before_a_word_is_kept() -> None:
    detokenizer = Detokenizer(of_words)

    assert [detokenizer.feed(token) for token in (0, 1, 1)] == ["a", " b", " b"]


def test_half_a_character_at_the_end_is_dropped() -> None:
    detokenizer = Detokenizer(of_bytes)
    pieces = [detokenizer.feed(byte) for byte in "ok🧀".encode()[:-1]]

    assert "".join(pieces) + detokenizer.end() == "ok"


def test_bytes_that_are_no_text_hold_nothing_up_for_ever() -> None:
    detokenizer = Detokenizer(of_bytes)
    pieces = [detokenizer.feed(0x80) for _ in range(20)]

    assert len("".join(pieces)) >= 16


@given(st.lists(st.text(alphabet="ab<|x", max_size=4), max_size=12), st.lists(st.text(alphabet="ab<|x", max_size=4)))
def test_a_text_ends_before_its_first_stop_text(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    ends = [at for stop in stops if stop and (at := whole.find(stop)) >= 0]
    texts = StopTexts(stops)
    given_out = taken = ""
    for piece in pieces:
        given_out, taken = given_out + texts.feed(piece), taken + piece
        # No more is held back than may be the beginning of a stop text.
        assert texts.stopped or any((stop or " ").startswith(taken[len(given_out) :]) for stop in [*stops, " "])
    given_out += texts.end()

    assert texts.stopped == bool(ends)
    # Of two stop texts the one that is whole first ends the text: the other one may begin before it.
    assert whole.startswith(given_out)
    assert not any(stop in given_out for stop in stops if stop)
    if not ends:
        assert given_out == whole


def test_a_stop_text_that_spans_pieces_is_found() -> None:
    texts = StopTexts(["\nUser:"])

    assert [texts.feed(piece) for piece in ("Yes", "\nUs", "eful\n", "User", ":", "more")] == [
        "Yes",
        "",
        "\nUseful",
        "",
        "",
        "",
    ]
    assert texts.stopped
    assert texts.end() == ""


@pytest.mark.parametrize(
    ("text", "begun", "answer"),
    [
        ("Plain.", False, "Plain."),
        ("<think>\nhm\n</think>\n\nYes.", False, "Yes."),
        ("\n<think>a</think><think>b</think> Yes.", False, "Yes."),
        ("hm\n</think>\n\nYes.", True, "Yes."),
        ("The tag <think> opens a thought.", False, "The tag <think> opens a thought."),
        ("  indented", False, "  indented"),
        ("<thin", False, "<thin"),
        ("<think>never done", False, ""),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_thinking_is_no_part_of_the_answer(text: str, begun: bool, answer: str, size: int) -> None:
    thinking = Thinking(begun=begun)
    pieces = [thinking.feed(text[at : at + size]) for at in range(0, len(text), size)]

    assert "".join(pieces) + thinking.end() == answer

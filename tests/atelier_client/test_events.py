"""Reading streams however they are cut, and text that grows from pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier_client import BadReply, GrowingText, TextDelta
from atelier_client.events import MAX_EVENT_BYTES, ServerEvent, SseDecoder

STREAM = (
    ": open\nretry: 1000\n\n"
    'event: state\nid: c1\ndata: {"a": "\u2028 \u0085 ö"}\n\n'
    ": ping\n\n"
    "data: one\r\ndata:two\r\n\r\n"
    "event: lonely\n\n"
    "id: c2\rdata: last\r\r"
).encode()
EVENTS = [
    ServerEvent("state", '{"a": "\u2028 \u0085 ö"}', "c1"),
    ServerEvent("message", "one\ntwo", ""),
    ServerEvent("message", "last", "c2"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    decoder = SseDecoder()
    edges = [0, *sorted(cuts), len(STREAM)]
    got = [event for begin, end in itertools.pairwise(edges) for event in decoder.feed(STREAM[begin:end])]
    got += decoder.feed(b"\n")
    assert got == EVENTS


def test_an_event_without_end_is_not_collected_for_ever() -> None:
    decoder = SseDecoder()
    with pytest.raises(BadReply):
        for _ in range(MAX_EVENT_BYTES // 1024 + 2):
            decoder.feed(b"data: " + b"x" * 1024 + b"\n")
    with pytest.raises(BadReply):
        SseDecoder().feed(b"x" * (MAX_EVENT_BYTES + 1))


@pytest.mark.parametrize(
    ("pieces", "shown", "text"),
    [
        ([(0, "a fox"), (5, " runs")], [(False, "a fox"), (False, " runs")], "a fox runs"),
        ([(0, "a fox"), (0, "a fox runs")], [(False, "a fox"), (False, " runs")], "a fox runs"),
        ([(0, "a fox"), (2, "fo")], [(False, "a fox"), (False, "")], "a fox"),
        ([(0, "a fox"), (9, "late")], [(False, "a fox"), (False, "")], "a fox"),
        ([(0, "a fox"), (0, "one owl")], [(False, "a fox"), (True, "one owl")], "one owl"),
        ([(0, "a 🦊"), (3, "!")], [(False, "a 🦊"), (False, "!")], "a 🦊!"),
    ],
    ids=["grows", "repeats and grows", "repeats", "misses a piece", "begins anew", "counts characters"],
)
def test_a_text_grows(pieces: list[tuple[int, str]], shown: list[tuple[bool, str]], text: str) -> None:
    growing = GrowingText()
    assert [growing.add(TextDelta("j", offset, piece)) for offset, piece in pieces] == shown
    assert growing.text == text

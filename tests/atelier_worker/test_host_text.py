"""How the pieces of a text leave the engine's process: the first at once, those that follow fast together."""

from __future__ import annotations

import queue

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker.host_context import HostContext
from atelier_worker.host_rooms import Rooms
from atelier_worker.host_text import TOGETHER_S, Flusher, Text


class Never(Flusher):
    """Notes what it should flush, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Text] = []

    def flush_soon(self, text: Text) -> None:
        self.asked.append(text)


def test_a_piece_goes_at_once_and_what_follows_within_a_moment_goes_together() -> None:
    sent: list[str] = []
    times = [0.0]
    flusher = Never()
    text = Text(sent.append, flusher, lambda: times[0])
    for piece in ("A", " light", "house", " at"):
        text.add(piece)
    assert sent == ["A"]
    assert flusher.asked == [text], "it is asked once for all that waits"
    text.flush()
    assert sent == ["A", " lighthouse at"]
    text.flush()
    times[0] += TOGETHER_S / 2
    text.add(" d")
    assert flusher.asked == [text, text], "for what waits now it is asked again"
    times[0] += TOGETHER_S / 2
    text.add("usk")
    assert sent[2:] == [" dusk"]
    times[0] += TOGETHER_S
    text.add(".")
    assert sent[3:] == ["."], "one that nothing came before waits for nothing"


def test_what_waits_goes_by_itself() -> None:
    sent = queue.SimpleQueue[str]()
    # In its own time the second piece always follows at once.
    text = Text(sent.put, Flusher(), lambda: 0.0)
    for piece in ("A", " light", "house"):
        text.add(piece)
    told = ""
    while told != "A lighthouse":
        told += sent.get(timeout=10)


def test_nothing_is_said_before_the_text_that_was_written_before_it() -> None:
    said: list[pb.HostResponse] = []
    context = HostContext(pb.RunTask(task_id="t"), said.append, Rooms(said.append), Never())
    for piece in ("A", " light", "house"):
        context.write(piece)
    context.log("half way")
    for piece in (" at", " dusk"):
        context.write(piece)
    context.finish("stop")
    context.write("!")
    said += context.last_words()
    assert [message.WhichOneof("message") for message in said] == ["text", "text", "log", "text", "finish"]
    assert [message.text.text for message in said if message.HasField("text")] == ["A", " lighthouse", " at dusk!"]

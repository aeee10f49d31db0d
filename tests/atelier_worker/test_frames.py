"""Messages over a pipe, however the pipe cuts them."""

from __future__ import annotations

import asyncio

import pytest

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker import frames

MESSAGES = [pb.HostResponse(text=pb.TaskText(task_id=str(number), text="x" * number)) for number in (0, 1, 300, 2)]


async def _read(*chunks: bytes) -> list[pb.HostResponse]:
    """Return what is read from chunks that come one after the other, to the end."""
    stream = asyncio.StreamReader()
    reader = frames.Frames(stream, pb.HostResponse)
    found: list[pb.HostResponse] = []

    async def read() -> None:
        while (message := await reader.next()) is not None:
            found.append(message)

    reading = asyncio.create_task(read())
    for chunk in chunks:
        stream.feed_data(chunk)
        await asyncio.sleep(0)
    stream.feed_eof()
    await reading
    return found


async def test_frames_are_read_wherever_they_are_cut() -> None:
    content = b"".join(map(frames.encode, MESSAGES))
    assert await _read(content) == MESSAGES
    for cut in range(1, len(content)):
        assert await _read(content[:cut], content[cut:]) == MESSAGES


async def test_what_came_together_is_read_without_waiting_again() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(b"".join(map(frames.encode, MESSAGES)))
    reader = frames.Frames(stream, pb.HostResponse)
    assert await reader.next() == MESSAGES[0]
    for message in MESSAGES[1:]:
        with pytest.raises(StopIteration) as read:
            reader.next().send(None)
        assert read.value.value == message


async def test_a_pipe_that_breaks_off_within_a_frame_is_a_fault() -> None:
    content = b"".join(map(frames.encode, MESSAGES))
    ends = {sum(len(frames.encode(message)) for message in MESSAGES[:number]) for number in range(len(MESSAGES) + 1)}
    for cut in set(range(1, len(content))) - ends:
        with pytest.raises(frames.FrameError, match="broke off"):
            await _read(content[:cut])
    assert await _read() == []


async def test_what_came_before_garbage_is_heard() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(frames.encode(MESSAGES[1]) + b"\xff\xff\xff\xff")
    reader = frames.Frames(stream, pb.HostResponse)
    assert await reader.next() == MESSAGES[1]
    with pytest.raises(frames.FrameError, match="a frame of 4294967295 bytes is announced"):
        await reader.next()

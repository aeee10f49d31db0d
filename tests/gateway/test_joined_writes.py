"""What is written to a connection in one step of the event loop leaves together, in order, and nothing waits."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from gateway.joined_writes import JoinedWrites


class Sent:
    """A transport that notes what happens to it."""

    def __init__(self) -> None:
        self.log: list[bytes | str] = []
        self.left = 0

    def write(self, data: bytes) -> None:
        self.log.append(data)

    def close(self) -> None:
        self.log.append("close")

    def abort(self) -> None:
        self.log.append("abort")

    def get_write_buffer_size(self) -> int:
        assert not self.is_closing()
        return self.left

    def is_closing(self) -> bool:
        return "close" in self.log


def joined(sent: Sent) -> JoinedWrites:
    return JoinedWrites(cast(Any, sent), asyncio.get_running_loop(), 0.01)


async def test_what_is_written_in_one_step_is_sent_together_and_the_next_by_itself() -> None:
    sent = Sent()
    transport = joined(sent)
    for data in (b"head", b"first"):
        transport.write(data)
    await asyncio.sleep(0)
    assert sent.log == [b"headfirst"]
    transport.write(b"second")
    await asyncio.sleep(0)
    assert sent.log == [b"headfirst", b"second"]


async def test_much_does_not_wait_so_that_the_writer_learns_that_nobody_reads() -> None:
    sent = Sent()
    transport = joined(sent)
    transport.write(b"x" * 40_000)
    transport.write(b"y")
    assert sent.log == [b"x" * 40_000]
    await asyncio.sleep(0)
    assert sent.log[1:] == [b"y"]


async def test_closing_sends_what_waits_and_cutting_off_does_not() -> None:
    sent = Sent()
    transport = joined(sent)
    transport.write(b"last")
    transport.close()
    assert sent.log == [b"last", "close"]
    assert transport.is_closing()
    transport.close()
    assert sent.log == [b"last", "close", "close"]
    cut = Sent()
    transport = joined(cut)
    transport.write(b"lost")
    transport.abort()
    await asyncio.sleep(0)
    assert cut.log == ["abort"]

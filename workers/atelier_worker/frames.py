"""Messages over a pipe: each is preceded by its length, a big-endian 32-bit number."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import BinaryIO, Generic, TypeVar

from google.protobuf.message import DecodeError, Message

MAX_FRAME_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 18
_LENGTH = struct.Struct(">I")
M = TypeVar("M", bound=Message)


class FrameError(Exception):
    """What came through the pipe is not a frame."""


def encode(message: Message) -> bytes:
    """Return a message as one frame."""
    body = message.SerializeToString()
    return _LENGTH.pack(len(body)) + body


class Frames(Generic[M]):
    """Messages that come through a pipe. What has come is read at once, and then costs no wait."""

    def __init__(self, stream: asyncio.StreamReader, make: Callable[[], M]) -> None:
        """Read frames, each into a new message."""
        self._stream = stream
        self._make = make
        self._received = bytearray()
        self._begin = 0

    async def next(self) -> M | None:
        """Return the next message; None at the end of the stream.

        Raises:
            FrameError: the bytes are no frame, or the stream broke off in the middle of one.
        """
        while (message := self._take()) is None:
            data = await self._stream.read(_CHUNK_BYTES)
            # In place: the pipe gives 64 KiB at a time, and a large frame would be copied for each.
            del self._received[: self._begin]
            self._begin = 0
            if not data:
                if self._received:
                    raise FrameError("the pipe broke off within a frame")
                return None
            self._received += data
        return message

    def _take(self) -> M | None:
        body = self._begin + _LENGTH.size
        if len(self._received) < body:
            return None
        end = body + _length(self._received[self._begin : body])
        if len(self._received) < end:
            return None
        self._begin = end
        return _parse(bytes(self._received[body:end]), self._make())


def read(stream: BinaryIO, into: M) -> M | None:
    """Read one frame into an empty message and return it; None at the end of the stream or in the middle of a frame."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    size = _length(head)
    body = stream.read(size)
    return _parse(body, into) if len(body) == size else None


def _length(head: bytes | bytearray) -> int:
    size = int(_LENGTH.unpack(head)[0])
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {size} bytes is announced; at most {MAX_FRAME_BYTES} are possible")
    return size


def _parse(body: bytes, into: M) -> M:
    try:
        into.ParseFromString(body)
    except DecodeError as error:
        raise FrameError("a frame holds no message") from error
    return into

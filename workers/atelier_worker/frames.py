"""Messages over a pipe: each is preceded by its length, a big-endian 32-bit number."""

from __future__ import annotations

import asyncio
import struct
from typing import BinaryIO, TypeVar

from google.protobuf.message import DecodeError, Message

MAX_FRAME_BYTES = 16 << 20
_LENGTH = struct.Struct(">I")
M = TypeVar("M", bound=Message)


class FrameError(Exception):
    """What came through the pipe is not a frame."""


def encode(message: Message) -> bytes:
    """Return a message as one frame."""
    body = message.SerializeToString()
    return _LENGTH.pack(len(body)) + body


async def read_async(stream: asyncio.StreamReader, into: M) -> M | None:
    """Read one frame into an empty message and return it; None at the end of the stream.

    Raises:
        FrameError: the bytes are no frame, or the stream broke off in the middle of one.
    """
    try:
        head = await stream.readexactly(_LENGTH.size)
        return _parse(await stream.readexactly(_length(head)), into)
    except asyncio.IncompleteReadError as error:
        if not error.partial and error.expected == _LENGTH.size:
            return None
        raise FrameError("the pipe broke off within a frame") from error


def read(stream: BinaryIO, into: M) -> M | None:
    """Read one frame into an empty message and return it; None at the end of the stream or in the middle of a frame."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    size = _length(head)
    body = stream.read(size)
    return _parse(body, into) if len(body) == size else None


def _length(head: bytes) -> int:
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

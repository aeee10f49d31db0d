"""What ComfyUI says on its socket while a prompt runs. It is only shown: whether it has ended is asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

_MOST_FRAME_BYTES = 16 * 1024 * 1024
_OPEN_S = 5.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_PICTURE, _PICTURE_WITH_METADATA = 1, 4
_OVER = ("execution_success", "execution_error", "execution_interrupted")
# Without this, previews come in a frame that does not say which prompt they belong to.
_FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})


@dataclass(frozen=True, slots=True)
class Step:
    """A node has done `value` of `most`."""

    node: str
    value: int
    most: int


@dataclass(frozen=True, slots=True)
class Entered:
    """A node runs."""

    node: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A small picture of what is being made."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Over:
    """The prompt has probably ended."""


Event = Step | Entered | Picture | Over


def event_of(frame: str | bytes, prompt_id: str) -> Event | None:
    """Return what a frame says about a prompt; None when it is about something else, or not understood."""
    if isinstance(frame, bytes):
        return _picture_of(frame, prompt_id)
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    data = message.get("data") if isinstance(message, dict) else None
    if not isinstance(data, dict) or data.get("prompt_id") != prompt_id:
        return None
    kind, node = message.get("type"), data.get("node")
    if kind in _OVER or (kind == "executing" and node is None):
        return Over()
    if kind == "executing" and isinstance(node, str):
        return Entered(node)
    return _step_of(data) if kind == "progress" and isinstance(node, str) else None


def _step_of(data: Mapping[str, Any]) -> Step | None:
    value, most = data.get("value"), data.get("max")
    if not isinstance(value, int | float) or not isinstance(most, int | float):
        return None
    return Step(str(data["node"]), int(value), int(most)) if 0 <= value <= most < 1_000_000 else None


def _picture_of(frame: bytes, prompt_id: str) -> Picture | None:
    """Read a frame: its kind, then the picture's format or the length of its metadata, each of 4 bytes, big-endian."""
    if len(frame) <= 8:
        return None
    kind, second = struct.unpack(">II", frame[:8])
    if kind == _PICTURE:
        return Picture(frame[8:])
    if kind != _PICTURE_WITH_METADATA or second > len(frame) - 8:
        return None
    try:
        metadata = json.loads(frame[8 : 8 + second])
    except (ValueError, RecursionError):
        return None
    if not isinstance(metadata, dict) or metadata.get("prompt_id") != prompt_id:
        return None
    return Picture(frame[8 + second :])


class Watch:
    """The socket of one prompt. It connects again by itself; a connection that is lost loses nothing but a show."""

    def __init__(self, url: str, prompt_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Listen to the ComfyUI at `url`. The prompt has to be handed in under its own id as the client's, too."""
        self._address = f"{url.replace('http', 'ws', 1)}/ws?clientId={prompt_id}"
        self._prompt_id = prompt_id
        self._clock = clock
        self._open = contextlib.ExitStack()
        self._socket: ClientConnection | None = None
        self._pause_s, self._not_before = 0.0, clock()
        self._never = threading.Event()

    @property
    def connected(self) -> bool:
        """Whether something can be heard."""
        return self._socket is not None

    def next(self, timeout_s: float) -> Event | None:
        """Return what is said next about the prompt; None when nothing was for so long."""
        end = self._clock() + timeout_s
        while True:
            left = end - self._clock()
            if left <= 0:
                return None
            if self._socket is None and not self.open():
                self._never.wait(min(left, max(0.0, self._not_before - self._clock()) + 0.001))
                continue
            event = self._hear(left)
            if event is not None:
                return event

    def close(self) -> None:
        """Close the socket."""
        self._socket = None
        # A socket that is already dead cannot say good-bye.
        with contextlib.suppress(OSError, WebSocketException):
            self._open.close()

    def _hear(self, timeout_s: float) -> Event | None:
        if self._socket is None:
            return None
        try:
            frame = self._socket.recv(timeout=timeout_s)
        except TimeoutError:
            return None
        except (OSError, WebSocketException):
            self.close()
            return None
        return event_of(frame, self._prompt_id)

    def open(self) -> bool:
        """Connect if it is time to, and return whether that went well."""
        if self._clock() < self._not_before:
            return False
        self._open = contextlib.ExitStack()
        try:
            self._socket = self._open.enter_context(
                connect(self._address, open_timeout=_OPEN_S, close_timeout=1.0, max_size=_MOST_FRAME_BYTES, proxy=None)
            )
            self._socket.send(_FLAGS)
        except (OSError, WebSocketException):
            self.close()
            self._pause_s = min(_LONGEST_PAUSE_S, max(_PAUSE_S, 2 * self._pause_s))
            self._not_before = self._clock() + self._pause_s
            return False
        self._pause_s = 0.0
        return True

"""What is watched and by whom, and what is told of it: a message of a service, ready for any number of clients."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.message import Message

from gateway.http_rules import RpcRoute
from gateway.render import to_bytes
from gateway.sse import frame
from gateway.streams import Access, cursor_of, event_name, shared


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched and by whom: equal ones share a feed. `request` is without its cursor."""

    path: str
    request: bytes
    identity: bytes
    """Names the key or token, and on behalf of whom it is used, without saying either."""
    route: RpcRoute = field(compare=False)
    access: Access = field(compare=False)
    """Makes the metadata of calls; it is used for as long as the feed lives, whoever brought it."""


class News:
    """One message of a service, ready to be sent to any number of clients."""

    __slots__ = ("_framed", "_name", "cursor", "data", "event")

    def __init__(self, event: str, data: bytes, cursor: str) -> None:
        self.event = event
        self.data = data
        self.cursor = cursor
        self._name = ("", "")
        self._framed = b""

    @classmethod
    def of(cls, message: Message) -> News:
        """Return what a message says."""
        return cls(event_name(message), to_bytes(message), shared(cursor_of(message)))

    def framed(self, event: str, event_id: str) -> bytes:
        """Return it as a server-sent event. Most clients get the same one, which is made once."""
        if self._name != (event, event_id):
            self._name, self._framed = (event, event_id), frame(event, self.data, event_id)
        return self._framed

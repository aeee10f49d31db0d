"""Watch RPCs: how a call begins, is told apart, resumed and ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

import grpc
from google.protobuf.message import Message

from gateway.backends import Backends, Metadata
from gateway.http_rules import RpcRoute
from gateway.status import of_rpc
from service_kit.errors import AtelierError, DeadlineExceeded, ErrorReason, Unauthenticated, Unavailable
from service_kit.events.watching import STREAM_STATE, WATCH

_CURSOR = "cursor"
AFTER = "after"
MAX_CURSOR = 512
LAST_EVENT_ID = "last-event-id"
EXPIRED_PAUSE_S = 1.0
"""Before a stream whose token ended at once is given up: the service and we may not agree on what time it is."""

Access = Callable[[], Awaitable[Metadata]]
"""Returns the metadata of a call with an identity token that is still good."""


def begins_after(request: Message, headers: Mapping[str, str]) -> str:
    """Return after which cursor a client wants to begin; may be empty.

    The header `Last-Event-ID` wins over the field `after` in the query, which EventSource repeats.
    """
    if said := headers.get(LAST_EVENT_ID, ""):
        # What is too long to be a cursor is an unknown one: the stream begins with a snapshot.
        return said if len(said) <= MAX_CURSOR else ""
    # A field that is too long is refused by the service, as the contract says.
    found: str = getattr(request, AFTER)
    return found


def cursor_of(message: Message) -> str:
    """Return where to resume after a message; empty for one that is not durable."""
    found: str = getattr(message, _CURSOR, "")
    return found


@lru_cache(maxsize=1024)
def shared(cursor: str) -> str:
    """Return the same text for equal cursors: thousands of watchers, which all keep theirs, are mostly at one place."""
    return cursor


def event_name(message: Message) -> str:
    """Return the name of the event: that of the member of its oneof which is set; `message` where there is none."""
    for oneof in message.DESCRIPTOR.oneofs:
        member = message.WhichOneof(oneof.name)
        if member is not None and not oneof.name.startswith("_"):
            return str(member)
    return "message"


def is_expired(error: AtelierError) -> bool:
    """Whether a stream ended only because its token did."""
    return isinstance(error, Unauthenticated) and error.reason is ErrorReason.EXPIRED_IDENTITY


class Watch:
    """One server-streaming RPC that is followed over any number of calls: a new token, the last cursor, and on."""

    def __init__(self, backends: Backends, route: RpcRoute, request: Message, access: Access, *, how: str = "") -> None:
        """Follow `route` with `request`; its field `after` moves along with the events.

        `how` is a word of `service_kit.events.watching`: whether the service ends the call as soon as it has told what
        there is, or leaves out how a job is that goes on.
        """
        self._backends = backends
        self._route = route
        self._request = request
        self._access = access
        self._more: Metadata = ((WATCH, how),) if how else ()
        self._call: Any = None
        self._first: Message | None = None
        self._refusal: AtelierError | None = None

    async def open(self, limit: timedelta) -> bool:
        """Begin the call. Returns False when the stream was resumed after its last event: there is nothing to come.

        Raises:
            AtelierError: the service refuses the call or cannot be reached.
        """
        self.cancel()
        self._first = None
        entries = await self._access()
        self._call = self._backends.stream(self._route, self._request, (*entries, *self._more))
        try:
            async with asyncio.timeout(limit.total_seconds()):
                return await self._begin()
        except TimeoutError:
            self.cancel()
            raise DeadlineExceeded from None
        except grpc.RpcError as error:
            raise self._refusal or of_rpc(error) from error
        except asyncio.CancelledError:
            self.cancel()
            self._raise_refusal()
            raise

    async def recheck(self) -> None:
        """End the call if its identity is refused by now; who reads it is told why."""
        refused = await refusal_of(self._access)
        if refused is not None:
            self.end(refused)

    def end(self, error: AtelierError) -> None:
        """End the call; who reads it is told why."""
        self._refusal = error
        self.cancel()

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Give the messages of the call that is open, until it ends.

        Raises:
            AtelierError: the stream broke. If only its token ended (`is_expired`), `open` may follow at once: here was
                a pause, unless something came before.
        """
        told = False
        try:
            message = self._first or await self._read()
            while message is not None:
                told = True
                cursor = cursor_of(message)
                if cursor and AFTER in self._request.DESCRIPTOR.fields_by_name:
                    setattr(self._request, AFTER, cursor)
                yield message
                message = await self._read()
        except asyncio.CancelledError:
            self._raise_refusal()
            raise
        except grpc.RpcError as error:
            broken = self._refusal or of_rpc(error)
            if is_expired(broken) and not told:
                await asyncio.sleep(EXPIRED_PAUSE_S)
            raise broken from error

    def cancel(self) -> None:
        """End the call. An abandoned call would never be collected."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def _begin(self) -> bool:
        """Return whether anything will come."""
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        state = _stream_state(await self._call.initial_metadata())
        if task is not None and task.cancelling() > cancelled:
            # gRPC may swallow it, and say that there is no metadata.
            raise asyncio.CancelledError
        if state is None:
            # The service says no state: whether it takes the call is known with the first message.
            self._first = await self._read()
            return self._first is not None
        return state != "ended"

    async def _read(self) -> Message | None:
        if self._refusal is not None:
            raise self._refusal
        found = await self._call.read()
        return None if found is grpc.aio.EOF else found

    def _raise_refusal(self) -> None:
        """Tell a call that `recheck` has cancelled from a task that somebody cancels."""
        task = asyncio.current_task()
        if self._refusal is not None and (task is None or not task.cancelling()):
            raise self._refusal from None


class OpenWatches:
    """The calls that one client each reads, so that they can be ended before their tokens are, or with the gateway."""

    def __init__(self) -> None:
        self._open: set[Watch] = set()
        self._is_closed = False

    @contextmanager
    def follow(self, watch: Watch) -> Iterator[None]:
        """Keep a call for as long as it is read. Raises Unavailable when the gateway closes."""
        if self._is_closed:
            raise _closing()
        self._open.add(watch)
        try:
            yield
        finally:
            self._open.discard(watch)

    async def recheck(self) -> None:
        """End the calls whose identity is refused by now: what remembers tokens has forgotten some."""
        for watch in tuple(self._open):
            await watch.recheck()

    def close(self) -> None:
        """End all calls, and take no more: each reader says so to its client, in the words of its dialect."""
        self._is_closed = True
        for watch in tuple(self._open):
            watch.end(_closing())


async def refusal_of(access: Access) -> Unauthenticated | None:
    """Return why an identity is refused by now; None where it is good, or nobody can say at this moment."""
    try:
        await access()
    except Unauthenticated as refused:
        return refused
    except AtelierError:
        # Then it ends with its token.
        return None
    return None


def _closing() -> Unavailable:
    return Unavailable("The gateway is closing; repeat.", retry_after=timedelta(seconds=1))


def _stream_state(entries: Any) -> str | None:
    return next((str(value) for key, value in entries or () if key == STREAM_STATE), None)

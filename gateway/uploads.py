"""Client-streaming RPCs over HTTP: the body is the file itself, passed on piece by piece, never kept."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import Message

from gateway import requests
from gateway.backends import Backends, Metadata
from gateway.context import Context
from gateway.http import ClientGone, Exchange, Reply
from gateway.http_rules import RpcRoute
from gateway.render import to_bytes
from gateway.status import HttpProblem, malformed, of_rpc
from service_kit.call_endings import Ending
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument

_PIECE_BYTES = 256 << 10
_SIZE = "size_bytes"
UPLOAD_LIMIT = timedelta(hours=1)
"""How long the body of one request may take to come."""

_UNSAID_TYPES = ("", "application/octet-stream")
_FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")
_DIGEST = re.compile(r"sha-256\s*=\s*:?([A-Za-z0-9+/=]+):?", re.IGNORECASE)


async def serve_upload(context: Context, route: RpcRoute, exchange: Exchange, entries: Metadata) -> Reply:
    """Stream the body to the RPC; what the headers and the query say goes with the first message.

    Raises:
        AtelierError: the service refuses the file, also while it still comes.
        ClientGone: the body broke off; the call is cancelled, so that nothing of it is kept.
    """
    first = _first_message(route, exchange)
    answer = await send_file(context.backends, route, entries, first, exchange.body_chunks())
    return Reply(200, {"content-type": "application/json", "cache-control": "no-store"}, to_bytes(answer))


async def send_file(
    backends: Backends, route: RpcRoute, entries: Metadata, first: Message, chunks: AsyncIterator[bytes]
) -> Message:
    """Stream a file to the RPC of a route whose first message is `first`. Returns its answer.

    Raises:
        AtelierError: the service refuses the file, also while it still comes; or what `chunks` raises.
        ClientGone: the file broke off; the call is cancelled, so that the service knows.
    """
    call = backends.upload(route, entries, UPLOAD_LIMIT)
    ending = Ending(call)
    try:
        return await _send(call, route, first, chunks)
    except grpc.RpcError as error:
        raise of_rpc(ending.of(error)) from error
    finally:
        call.cancel()


async def _send(call: Any, route: RpcRoute, first: Message, chunks: AsyncIterator[bytes]) -> Message:
    """Write the body and return the answer, which may come before the body has ended: then the rest is not read."""
    writing = asyncio.create_task(_write(call, route, first, chunks), name="upload-write")
    answering = asyncio.ensure_future(call)
    try:
        await asyncio.wait({writing, answering}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done() or not answering.done():
            # A body that broke off cancels the call: that is the news, not that the call was cancelled.
            await writing
        answer: Message = await answering
        return answer
    finally:
        for task in (writing, answering):
            task.cancel()
        await asyncio.gather(writing, answering, return_exceptions=True)


async def _write(call: Any, route: RpcRoute, first: Message, chunks: AsyncIterator[bytes]) -> None:
    message, total = first, 0
    make = requests.message_class(route.method.input_type)
    try:
        async for chunk in chunks:
            for piece in _pieces(chunk):
                setattr(message, route.body, piece)
                await call.write(message)
                message, total = make(), total + len(piece)
        if message is first:
            await call.write(message)
        elif _SIZE in first.DESCRIPTOR.fields_by_name and not getattr(first, _SIZE):
            # To a gRPC service a call that is cancelled can look like one that has ended: a body of unknown length
            # says at its end how long it was, so that a part is never taken for the whole.
            await call.write(make(**{_SIZE: total}))
        await call.done_writing()
    except (ClientGone, AtelierError):
        call.cancel()
        raise
    except (asyncio.InvalidStateError, grpc.RpcError):
        # The service has answered already; what it says is read from the call.
        return


def _pieces(chunk: bytes) -> Iterator[bytes]:
    for start in range(0, len(chunk), _PIECE_BYTES):
        yield chunk[start : start + _PIECE_BYTES]


def _first_message(route: RpcRoute, exchange: Exchange) -> Message:
    message = requests.message_class(route.method.input_type)()
    requests.fill_path(message, exchange.path_values)
    requests.fill_query(message, route, exchange.query_string)
    for name, value in _announced(exchange.headers).items():
        if name not in message.DESCRIPTOR.fields_by_name:
            continue
        said = getattr(message, name)
        if said and said != value:
            raise InvalidArgument.field(
                name, "is not the same in the query and in the headers", ErrorReason.CONFLICTING_FIELDS
            )
        setattr(message, name, value)
    return message


def _announced(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return what the headers say about the file, by the names of the fields."""
    found: dict[str, Any] = {}
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in _FORM_TYPES:
        raise HttpProblem(
            malformed(f"must be that of the file, which is the whole body, not {content_type}", "content-type"),
            status=415,
        )
    if content_type not in _UNSAID_TYPES:
        found["content_type"] = content_type
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length):
        found[_SIZE] = int(length)
    digest = headers.get("content-digest") or headers.get("digest")
    if digest:
        found["sha256"] = _sha256(digest)
    return found


def _sha256(header: str) -> str:
    """Return the SHA-256 of a Digest (RFC 3230) or Content-Digest (RFC 9530) header in hexadecimal."""
    match = _DIGEST.search(header)
    if match:
        with suppress(binascii.Error):
            raw = base64.b64decode(match[1], validate=True)
            if len(raw) == 32:
                return raw.hex()
    raise malformed("must be sha-256=<base64 of 32 bytes>", "digest")

"""Many items as one file: `GET|POST /v1/items.zip`, with what `ListItems` takes in the query or the body.

The archive is made while it is sent: stored, not deflated (media do not shrink), with sizes of 64 bits, and never more
of it in memory than a piece of one file and the list of names. A client that goes ends it at once.
"""

from __future__ import annotations

import io
import mimetypes
import re
import unicodedata
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import grpc
from google.protobuf.message import Message

from atelier.library.v1 import library_service_pb2 as pb
from gateway import requests
from gateway.backends import Metadata
from gateway.context import Context
from gateway.http import Exchange
from gateway.http_rules import RpcRoute
from gateway.status import body_too_large, of_rpc
from service_kit.blobs import BlobStore, UnreadableBlob
from service_kit.errors import ErrorReason, FailedPrecondition, InvalidArgument, NotFound
from service_kit.media_urls import MediaGrant, MediaVerifier
from service_kit.telemetry import get_logger

MOST_ITEMS = 10_000
"""How many files one archive has at most: their names are kept until its end."""

_LIST_ITEMS = "/atelier.library.v1.LibraryService/ListItems"
_COUNT_ITEMS = "/atelier.library.v1.LibraryService/CountItems"

_PAGE = 200
# A name with its number and its ending has at most 255 bytes, or no file system takes it.
_LONGEST_NAME, _LONGEST_NAME_BYTES = 100, 220
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]+')
_RESERVED = re.compile(r"(con|conin\$|conout\$|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])\s*(\.|$)", re.IGNORECASE)
# Marks that nobody sees, and which of them join letters: the others turn a name around, such as to hide its ending.
_UNSEEN, _JOINERS = frozenset({"Cc", "Cf", "Cs"}), "\u200c\u200d"
_MOST_READ = 1000
_MISSING = "missing.txt"
_EARLIEST = (1980, 1, 1, 0, 0, 0)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _File:
    """One file to be packed."""

    name: str
    grant: MediaGrant
    modified: tuple[int, int, int, int, int, int]


class _Piece(io.RawIOBase):
    """What the archive has written since it was last taken: a file that cannot be sought in."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()

    def writable(self) -> bool:
        """Tell that it can be written."""
        return True

    def write(self, data: Any) -> int:
        """Keep data to be sent."""
        before = len(self._written)
        self._written += data
        return len(self._written) - before

    def take(self) -> bytes:
        """Return what was written, and forget it."""
        taken, self._written = bytes(self._written), bytearray()
        return taken


class Names:
    """Names for files, each once, that every system can write."""

    def __init__(self) -> None:
        self._used: set[str] = {_MISSING}
        # Thousands of items may have one prompt: the numbers that are given are not tried again.
        self._last: dict[str, int] = {}

    def give(self, item: pb.Item) -> str:
        """Return a name made of an item's title, or else of its prompt, or else of its id."""
        said = item.title or item.provenance.prompt or item.item_id
        stem = _plain(said[:_MOST_READ])
        if not stem.strip(_JOINERS) or _RESERVED.match(stem):
            stem = item.item_id
        ending = mimetypes.guess_extension(item.media.content_type) or ""
        plain = name = stem + ending
        number = self._last.get(plain.casefold(), 1)
        while name.casefold() in self._used:
            number += 1
            name = f"{stem} ({number}){ending}"
        self._last[plain.casefold()] = number
        self._used.add(name.casefold())
        return name


class Downloads:
    """Sends items as archives, read from the blob store."""

    def __init__(self, context: Context, routes: Iterable[RpcRoute], store: BlobStore, verifier: MediaVerifier) -> None:
        """Find out what to send by the RPCs of `routes`."""
        by_path = {route.grpc_path: route for route in routes}
        self._context = context
        self._list, self._count = by_path[_LIST_ITEMS], by_path[_COUNT_ITEMS]
        self._store = store
        self._verifier = verifier

    async def serve(self, exchange: Exchange) -> None:
        """Send what was asked for.

        Raises:
            AtelierError: the request is refused, nothing matches, or more than an archive may have.
        """
        entries = await self._context.access(exchange)()
        request = await self._request(exchange)
        files = self._files(request, entries)
        async with aclosing(files):
            first = await anext(files, None)
            if first is None:
                raise NotFound("No item matches: there is nothing to download.")
            headers = {
                "content-type": "application/zip",
                "content-disposition": 'attachment; filename="atelier.zip"',
                "cache-control": "no-store",
            }
            await exchange.start(200, headers)
            await self._pack(exchange, first, files)

    async def _request(self, exchange: Exchange) -> pb.ListItemsRequest:
        """Return what to list, with everything wrong about it found before the first byte is sent."""
        body = await exchange.body(self._context.max_body_bytes, body_too_large)
        route = replace(self._list, body="*") if exchange.method == "POST" else self._list
        request = requests.build(route, {}, exchange.query_string, body, exchange.headers)
        if not isinstance(request, pb.ListItemsRequest):
            raise TypeError(f"{route.grpc_path} does not list items")
        for field in ("page_size", "page_token"):
            if getattr(request, field):
                raise InvalidArgument.field(field, "has no meaning here: the archive has everything that matches")
        request.page_size = _PAGE
        return request

    async def _files(self, request: pb.ListItemsRequest, entries: Metadata) -> AsyncGenerator[_File, None]:
        names, count = Names(), 0
        while True:
            page = await self._page(request, entries)
            if not count and page.next_page_token:
                await self._check_size(request, entries)
            for item in page.items:
                # Checked at once: the address is good for an hour, the download may take longer.
                yield _File(names.give(item), await self._grant(item.url), _modified(item))
                count += 1
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return

    async def _page(self, request: pb.ListItemsRequest, entries: Metadata) -> pb.ListItemsResponse:
        answer = await self._call(self._list, request, entries)
        if not isinstance(answer, pb.ListItemsResponse):
            raise TypeError(f"{self._list.grpc_path} does not list items")
        return answer

    async def _check_size(self, request: pb.ListItemsRequest, entries: Metadata) -> None:
        count = pb.CountItemsRequest()
        for field, value in request.ListFields():
            if field.name not in count.DESCRIPTOR.fields_by_name:
                continue
            if field.is_repeated:
                getattr(count, field.name).extend(value)
            elif field.message_type is not None:
                getattr(count, field.name).CopyFrom(value)
            else:
                setattr(count, field.name, value)
        answer = await self._call(self._count, count, entries)
        if not request.item_ids and isinstance(answer, pb.CountItemsResponse) and answer.is_bound:
            raise FailedPrecondition(
                f"An archive has {MOST_ITEMS:,} files at most, and more items match: ask for fewer, such as by date.",
                ErrorReason.OUT_OF_RANGE,
            )

    async def _call(self, route: RpcRoute, request: Message, entries: Metadata) -> Message:
        try:
            return await self._context.backends.unary(route, request, entries, self._context.request_timeout)
        except grpc.RpcError as error:
            raise of_rpc(error) from error

    async def _grant(self, url: str) -> MediaGrant:
        parts = urlsplit(url)
        _, _, bucket, key = parts.path.split("/", 3)
        query = dict(parse_qsl(parts.query))
        await self._verifier.learn(query.get("kid", ""))
        return self._verifier.verify(bucket, unquote(key), query)

    async def _pack(self, exchange: Exchange, first: _File, rest: AsyncIterator[_File]) -> None:
        piece, missing = _Piece(), []
        with zipfile.ZipFile(piece, "w", zipfile.ZIP_STORED) as archive:
            file: _File | None = first
            while file is not None:
                if not await self._add(exchange, archive, piece, file):
                    missing.append(file.name)
                file = await anext(rest, None)
            if missing:
                said = (
                    "These files were deleted while the archive was made, or are damaged:\r\n"
                    + "\r\n".join(missing)
                    + "\r\n"
                )
                archive.writestr(zipfile.ZipInfo(_MISSING, _EARLIEST), said)
        await exchange.write(piece.take(), more=False)

    async def _add(self, exchange: Exchange, archive: zipfile.ZipFile, piece: _Piece, file: _File) -> bool:
        """Send one file. Tells whether it is there; one that breaks off later breaks the archive off."""
        grant = file.grant
        try:
            info = await self._store.stat(grant.bucket, grant.key)
        except UnreadableBlob:
            # The others are whole: who wants them gets them.
            log.warning("file_unreadable", bucket=grant.bucket, key=grant.key, exc_info=True)
            return False
        if info is None or info.generation != grant.generation:
            return False
        chunks = self._store.open_range(grant.bucket, grant.key, generation=grant.generation)
        async with aclosing(chunks) as pieces:
            try:
                # Before its name is in the archive: it may have gone just now.
                chunk: bytes | None = await anext(pieces, None)
            except NotFound:
                return False
            with archive.open(zipfile.ZipInfo(file.name, file.modified), "w", force_zip64=True) as member:
                while chunk is not None:
                    member.write(chunk)
                    await exchange.write(piece.take())
                    chunk = await anext(pieces, None)
        return True


def _plain(said: str) -> str:
    """Return a text as the first part of a file's name."""
    seen = (" " if unicodedata.category(mark) in _UNSEEN and mark not in _JOINERS else mark for mark in said)
    stem = " ".join(_FORBIDDEN.sub(" ", unicodedata.normalize("NFC", "".join(seen))).split())[:_LONGEST_NAME]
    return stem.encode()[:_LONGEST_NAME_BYTES].decode("utf-8", "ignore").strip(" .")


def _modified(item: pb.Item) -> tuple[int, int, int, int, int, int]:
    moment = item.created_at.ToDatetime(tzinfo=UTC)
    # Archives count from 1980, in even seconds.
    return max(_EARLIEST, (moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second))

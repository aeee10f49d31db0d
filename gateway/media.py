"""Signed media: `GET|HEAD /media/{bucket}/{key}`, with ranges, conditions and caching (RFC 9110).

The bytes are read from the blob store, or whoever asks is sent on to an address that the store has signed.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import parse_qsl, unquote, urlsplit

from gateway.http import Exchange, Reply
from gateway.requests import query_pairs
from gateway.status import HttpProblem
from service_kit.blobs import BlobInfo, BlobStore
from service_kit.clock import Clock
from service_kit.errors import ErrorReason, NotFound, OutOfRange, PermissionDenied
from service_kit.media_urls import MediaGrant, MediaVerifier

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_SHOWN_TYPES = ("image/", "video/", "audio/")
_CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A part of a file: its first byte and how many there are."""

    offset: int
    length: int


class Media:
    """Serves blobs to whoever has a signed address."""

    def __init__(self, store: BlobStore, verifier: MediaVerifier, clock: Clock, *, redirect: bool = False) -> None:
        """Read from `store`, never write; with `redirect` let it serve by itself if it can."""
        self._store = store
        self._redirect = redirect
        self._verifier = verifier
        self._clock = clock

    async def serve(self, exchange: Exchange, bucket: str, key: str) -> Reply | None:
        """Serve one blob.

        Raises:
            PermissionDenied: the address is not signed, was changed, or has expired.
            NotFound: the blob is gone.
        """
        pairs = query_pairs(exchange.query_string)
        if len(dict(pairs)) != len(pairs):
            raise PermissionDenied("The address is not signed: ask for a new one.")
        query = dict(pairs)
        await self._verifier.learn(query.get("kid", ""))
        return await self._serve(exchange, self._verifier.verify(bucket, key, query))

    async def serve_url(self, exchange: Exchange, url: str) -> Reply | None:
        """Serve what a signed address of ours names, in answer to a request with another path. Raises as `serve`."""
        return await self._serve(exchange, await self._grant(url))

    async def read(self, url: str) -> bytes:
        """Return the bytes that a signed address of ours names. Raises NotFound when they are gone."""
        grant = await self._grant(url)
        info = await self._store.stat(grant.bucket, grant.key)
        if info is None or info.generation != grant.generation:
            raise NotFound("The file is gone.")
        chunks = self._store.open_range(grant.bucket, grant.key, generation=grant.generation)
        async with aclosing(chunks) as pieces:
            return b"".join([piece async for piece in pieces])

    async def _grant(self, url: str) -> MediaGrant:
        parts = urlsplit(url)
        # The gateway may be below a path of its public address.
        bucket, key = parts.path.partition("/media/")[2].split("/", 1)
        query = dict(parse_qsl(parts.query))
        await self._verifier.learn(query.get("kid", ""))
        return self._verifier.verify(bucket, unquote(key), query)

    async def _serve(self, exchange: Exchange, grant: MediaGrant) -> Reply | None:
        bucket, key = grant.bucket, grant.key
        if self._redirect and exchange.method == "GET":
            elsewhere = await self._send_on(grant)
            if elsewhere is not None:
                return elsewhere
        info = await self._store.stat(bucket, key)
        if info is None or info.generation != grant.generation:
            raise NotFound("The file is gone.")
        headers = self._headers(info, grant)
        if _is_unchanged(exchange, info, headers["etag"]):
            return Reply(304, headers)
        wanted = _wanted_range(exchange, info, headers["etag"])
        headers["content-type"] = _content_type(info)
        headers["content-length"] = str(wanted.length if wanted else info.size_bytes)
        if wanted:
            last = wanted.offset + wanted.length - 1
            headers["content-range"] = f"bytes {wanted.offset}-{last}/{info.size_bytes}"
        status = 206 if wanted else 200
        if exchange.method == "HEAD":
            return Reply(status, headers)
        await self._send(exchange, info, wanted or ByteRange(0, info.size_bytes), status, headers)
        return None

    async def _send_on(self, grant: MediaGrant) -> Reply | None:
        """Return where the store serves the file itself, until the address that was asked for ends; None if nowhere."""
        left = grant.expires_at - self._clock.now()
        signed = await self._store.sign(grant.bucket, grant.key, grant.generation, ttl=left)
        if signed is None:
            return None
        age = max(0, int((signed.expires_at - self._clock.now()) / timedelta(seconds=1)))
        return Reply(307, {"location": signed.url, "cache-control": f"private, max-age={age}"})

    def _headers(self, info: BlobInfo, grant: MediaGrant) -> dict[str, str]:
        age = max(0, int((grant.expires_at - self._clock.now()) / timedelta(seconds=1)))
        return {
            "etag": f'"{info.sha256}"',
            "last-modified": format_datetime(info.created_at, usegmt=True),
            "cache-control": f"private, max-age={age}, immutable",
            "accept-ranges": "bytes",
            "content-disposition": "inline",
            "content-security-policy": _CONTENT_POLICY,
            "cross-origin-resource-policy": "cross-origin",
        }

    async def _send(
        self, exchange: Exchange, info: BlobInfo, part: ByteRange, status: int, headers: dict[str, str]
    ) -> None:
        if part.length == 0:
            await exchange.reply(Reply(status, headers))
            return
        chunks = self._store.open_range(
            info.bucket, info.key, offset=part.offset, length=part.length, generation=info.generation
        )
        left = part.length
        async with aclosing(chunks) as pieces:
            async for piece in pieces:
                if not exchange.started:
                    # Only now is it known that the bytes are there: a blob that went just now is still a clean 404.
                    await exchange.start(status, headers)
                left -= len(piece)
                await exchange.write(piece, more=left > 0)


def _content_type(info: BlobInfo) -> str:
    return info.content_type if info.content_type.startswith(_SHOWN_TYPES) else "application/octet-stream"


def _is_unchanged(exchange: Exchange, info: BlobInfo, etag: str) -> bool:
    """Tell whether the client has the file already: by its tag, and only without one by its time (section 13.2.2)."""
    header = exchange.headers.get("if-none-match")
    if header is None:
        since = _date(exchange.headers.get("if-modified-since"))
        return since is not None and info.created_at.replace(microsecond=0) <= since
    # Weak and strong tags compare alike here (section 13.1.2).
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


def _holds(condition: str, info: BlobInfo, etag: str) -> bool:
    """Tell whether If-Range still holds: the very tag, or the very time (section 13.1.5)."""
    return condition.strip() == etag or _date(condition) == info.created_at.replace(microsecond=0)


def _date(header: str | None) -> datetime | None:
    """Return the time of a header; None when it is none, which is then ignored."""
    try:
        moment = None if header is None else parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    # Without a zone it is no date of HTTP.
    return moment if moment is not None and moment.tzinfo is not None else None


def _wanted_range(exchange: Exchange, info: BlobInfo, etag: str) -> ByteRange | None:
    """Return the part that is asked for; None for the whole file: several parts, or If-Range no longer holds.

    Raises:
        HttpProblem: the part lies beyond the end (416).
    """
    header = exchange.headers.get("range")
    condition = exchange.headers.get("if-range")
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match[0] == "bytes=-" or (condition is not None and not _holds(condition, info, etag)):
        return None
    size = info.size_bytes
    if not match[1]:
        offset, last = max(0, size - int(match[2])), size - 1
    else:
        offset, last = int(match[1]), min(int(match[2]), size - 1) if match[2] else size - 1
        if match[2] and int(match[2]) < offset:
            return None
    if offset > last:
        error = OutOfRange(f"The file has {size} bytes; the range {header} lies beyond them.", ErrorReason.OUT_OF_RANGE)
        raise HttpProblem(error, status=416, headers={"content-range": f"bytes */{size}"})
    return ByteRange(offset, last - offset + 1)

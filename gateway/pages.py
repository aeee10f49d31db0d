"""The files of the console, if it is installed: read once, served from memory, under a strict content policy."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from urllib.parse import urlsplit

from gateway.http import Exchange, Reply

PACKAGE = "atelier_console"
PREFIX = "console"
"""The files are at `/console/<path>`; `index.html` is also `/`, and `docs.html` also `/docs`."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Page:
    """One file."""

    content: bytes
    content_type: str
    etag: str


class Pages:
    """The console's files by their path, such as `index.html`. Only what was there at the start is served."""

    def __init__(self, *media_urls: str) -> None:
        """Read the files; pages may show pictures and videos from the hosts of `media_urls`."""
        self._pages = dict(_read(PACKAGE))
        origin = " ".join("{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in media_urls)
        self._policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; font-src 'self'; "
            f"img-src 'self' data: blob: {origin}; media-src 'self' blob: {origin}; "
            "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        )

    def has(self, path: str) -> bool:
        """Tell whether there is such a file."""
        return path in self._pages

    async def serve(self, exchange: Exchange, path: str) -> Reply:
        """Return a file that is there."""
        page = self._pages[path]
        headers = {"etag": page.etag, "cache-control": "no-cache", "content-security-policy": self._policy}
        if exchange.headers.get("if-none-match") == page.etag:
            return Reply(304, headers)
        return Reply(200, {"content-type": page.content_type, **headers}, page.content)


def _read(package: str) -> Iterator[tuple[str, Page]]:
    if importlib.util.find_spec(package) is not None:
        yield from _files(importlib.resources.files(package), "", 0)


def _files(folder: Traversable, prefix: str, depth: int) -> Iterator[tuple[str, Page]]:
    for entry in folder.iterdir():
        path = prefix + entry.name
        suffix = "." + entry.name.rpartition(".")[2]
        if entry.is_dir() and depth < _MAX_DEPTH:
            yield from _files(entry, path + "/", depth + 1)
        elif suffix in _TYPES:
            content = entry.read_bytes()
            yield path, Page(content, _TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

"""What stands before every handler: which hosts and origins may call, and the headers that every answer carries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.http import MAX_HEADER_BYTES, Exchange, Reply
from gateway.status import HttpProblem, malformed
from service_kit.errors import PermissionDenied
from service_kit.settings import SettingsError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_ALLOWED_METHODS = "GET, HEAD, POST, PUT, DELETE"
ANY_ORIGIN = "*"
_ALLOWED_HEADERS = (
    "authorization, content-type, idempotency-key, last-event-id, x-api-key, x-request-id, atelier-on-behalf-of, "
    "atelier-retry-count, content-digest, digest, range, if-none-match, if-range"
)
# What SDKs of others send along differs from one to the next, and none of it gives a page more rights.
_WANTED_HEADERS = re.compile(r"[A-Za-z0-9-]{1,64}( *, *[A-Za-z0-9-]{1,64}){0,63}")
_EXPOSED_HEADERS = (
    "x-request-id, retry-after, etag, content-range, accept-ranges, www-authenticate, location, x-fal-request-id, "
    "x-fal-error-type, x-fal-request-timeout-type, x-should-retry, openai-poll-after-ms"
)
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
_SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True, slots=True)
class Edge:
    """The rules of one gateway."""

    hosts: frozenset[str] | None
    """Names that a request may call us by; None for any. A name that another site points at us is not among them."""
    origins: frozenset[str]
    """Origins whose pages may call, as browsers write them. `*`: those of any page, which then sends no cookie."""
    tls: bool

    def common_headers(self, exchange: Exchange) -> dict[str, str]:
        """Return the headers of every answer; a handler's own replace them."""
        headers = dict(_SECURITY_HEADERS)
        if self.tls:
            headers["strict-transport-security"] = "max-age=31536000"
        if self.origins:
            headers["vary"] = "origin"
        allowed = self._allowed(exchange)
        if allowed is not None:
            # Never with access-control-allow-credentials: the session's cookie must not travel with calls of others.
            headers["access-control-allow-origin"] = allowed
            headers["access-control-expose-headers"] = _EXPOSED_HEADERS
        return headers

    def _allowed(self, exchange: Exchange) -> str | None:
        """Return whom the answer may be shown to; None for pages of other origins than are allowed."""
        origin = exchange.headers.get("origin")
        if origin is None:
            return None
        return origin if origin in self.origins else ANY_ORIGIN if ANY_ORIGIN in self.origins else None

    def check(self, exchange: Exchange) -> Reply | None:
        """Return the answer to a CORS preflight, or None for a request that goes on.

        Raises:
            PermissionDenied: the request calls us by a name that is not ours.
            HttpProblem: its headers are too long (431).
        """
        if sum(len(name) + len(value) for name, value in exchange.scope["headers"]) > MAX_HEADER_BYTES:
            raise HttpProblem(malformed(f"The headers are longer than {MAX_HEADER_BYTES} bytes."), status=431)
        if self.hosts is not None and _host(exchange.headers.get("host", "")) not in self.hosts:
            raise PermissionDenied(
                "This gateway is not known by that name: check the Host header, or set core.public_url."
            )
        if exchange.method != "OPTIONS" or "access-control-request-method" not in exchange.headers:
            return None
        if self._allowed(exchange) is None:
            raise PermissionDenied("Pages of this origin may not call the gateway: see gateway.cors_origins.")
        wanted = exchange.headers.get("access-control-request-headers", "")
        if wanted and not _WANTED_HEADERS.fullmatch(wanted):
            raise malformed("must be at most 64 names", "access-control-request-headers")
        return Reply(
            204,
            {
                "access-control-allow-methods": _ALLOWED_METHODS,
                "access-control-allow-headers": f"{_ALLOWED_HEADERS}, {wanted}" if wanted else _ALLOWED_HEADERS,
                "access-control-max-age": "600",
            },
        )


def make_edge(public_url: str, *, loopback: bool, origins: tuple[str, ...], tls: bool) -> Edge:
    """Return the rules: on loopback only our own names are taken, so that no page can reach us by DNS rebinding.

    Raises:
        SettingsError: an origin that no browser could send.
    """
    public = urlsplit(public_url).hostname
    hosts = frozenset({*_LOOPBACK_NAMES, *([public] if public else [])}) if loopback else None
    return Edge(hosts, frozenset(_good_origin(origin) for origin in origins), tls)


def _good_origin(text: str) -> str:
    origin = text.strip().rstrip("/")
    if origin != ANY_ORIGIN and not _ORIGIN.fullmatch(origin):
        raise SettingsError(
            f"gateway.cors_origins: {text!r} is no origin; write scheme, host and port as browsers do, in lower case, "
            "such as https://shop.example, or * for all."
        )
    return origin


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""

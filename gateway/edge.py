"""What stands before every handler: which hosts and origins may call, and the headers that every answer carries."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.http import MAX_HEADER_BYTES, Exchange, Reply
from gateway.status import HttpProblem, malformed
from service_kit.errors import PermissionDenied

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_ALLOWED_METHODS = "GET, HEAD, POST, PUT, DELETE"
_ALLOWED_HEADERS = (
    "authorization, content-type, idempotency-key, last-event-id, x-api-key, x-request-id, atelier-on-behalf-of, "
    "content-digest, digest, range, if-none-match, if-range"
)
_EXPOSED_HEADERS = "x-request-id, retry-after, etag, content-range, accept-ranges, www-authenticate"
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
    tls: bool

    def common_headers(self, exchange: Exchange) -> dict[str, str]:
        """Return the headers of every answer; a handler's own replace them."""
        headers = dict(_SECURITY_HEADERS)
        if self.tls:
            headers["strict-transport-security"] = "max-age=31536000"
        if self.origins:
            headers["vary"] = "origin"
        origin = exchange.headers.get("origin")
        if origin in self.origins:
            headers["access-control-allow-origin"] = str(origin)
            headers["access-control-expose-headers"] = _EXPOSED_HEADERS
        return headers

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
        if exchange.headers.get("origin") not in self.origins:
            raise PermissionDenied("Pages of this origin may not call the gateway: see gateway.cors_origins.")
        return Reply(
            204,
            {
                "access-control-allow-methods": _ALLOWED_METHODS,
                "access-control-allow-headers": _ALLOWED_HEADERS,
                "access-control-max-age": "600",
            },
        )


def make_edge(public_url: str, *, loopback: bool, origins: tuple[str, ...], tls: bool) -> Edge:
    """Return the rules: on loopback only our own names are taken, so that no page can reach us by DNS rebinding."""
    public = urlsplit(public_url).hostname
    hosts = frozenset({*_LOOPBACK_NAMES, *([public] if public else [])}) if loopback else None
    return Edge(hosts, frozenset(origin.rstrip("/") for origin in origins), tls)


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""

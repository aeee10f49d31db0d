"""`/fal/proxy`: the one address of browsers and JavaScript; each call names the one that it means.

`x-fal-target-url` says what the client would have called. Only which of fal's hosts it names, and the path, are read:
nothing is ever sent there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gateway.dialects.call import Call
from gateway.dialects.dialect import Endpoint, find_endpoint
from gateway.dialects.fal.storage import ROOT as STORAGE
from gateway.http import Reply
from gateway.status import malformed
from service_kit.errors import InvalidArgument

TARGET = "x-fal-target-url"
_MOST = 4000
_HOSTS = {
    "queue.fal.run": "/fal/queue",
    "queue.falrun.com": "/fal/queue",
    "fal.run": "/fal/run",
    "falrun.com": "/fal/run",
    "rest.fal.ai": "/fal",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a call means: segments of a path of ours, and a query."""

    segments: tuple[str, ...]
    query: bytes


def parse_target(url: str) -> Target:
    """Return what an address of fal's means here.

    Raises:
        InvalidArgument: it is none, or names something that is not served.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if len(url) > _MOST or parts.scheme != "https" or host not in _HOSTS or port is not None or parts.username:
        known = ", ".join(f"https://{name}" for name in ("queue.fal.run", "fal.run", "rest.fal.ai/storage"))
        raise InvalidArgument.field(TARGET, f"must begin with one of {known}; got {url[:100]!r}")
    path = f"{_HOSTS[host]}{parts.path}"
    if host == "rest.fal.ai" and not path.startswith(f"{STORAGE}/"):
        raise InvalidArgument.field(TARGET, f"names something that is not served: {url[:100]!r}")
    try:
        segments = tuple(unquote(part, errors="strict") for part in path.split("/")[1:])
        return Target(segments, parts.query.encode("ascii"))
    except UnicodeError:
        raise InvalidArgument.field(TARGET, "is not percent-encoded UTF-8") from None


def proxy_endpoints(others: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the endpoints that serve what `others` serve, by the name in the header."""

    async def serve(call: Call) -> Reply | None:
        """Serve what a header names."""
        said = call.headers.get(TARGET)
        if said is None:
            raise malformed("says what to call, and is missing", TARGET)
        target = parse_target(said)
        endpoint, path = find_endpoint(others, call.exchange.method, target.segments)
        call.exchange.query_string = target.query
        inner = Call(call.kit, call.dialect, endpoint, call.exchange, path, call.access, call.jobs)
        return await endpoint.serve(inner)

    note = f"Serves what the header `{TARGET}` names, if it is one of the rows above on fal's own hosts."
    return tuple(Endpoint(method, "/fal/proxy", serve, note=note) for method in ("GET", "POST", "PUT"))

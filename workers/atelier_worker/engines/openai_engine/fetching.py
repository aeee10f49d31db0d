"""Pictures that an upstream names by their address: fetched from public addresses and from the upstream's own alone."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import cached_property
from urllib.parse import urlsplit

from atelier_worker.engine import EngineError
from service_kit.destinations import Destinations, Refused
from service_kit.outgoing import Outgoing, Resolver, Unreachable, open_tls

log = logging.getLogger(__name__)

LARGEST_BYTES = 64 << 20
_LIMIT = timedelta(seconds=60)


class Fetcher:
    """Fetches what addresses in answers lead to: a wrong or malicious upstream must not reach into this network."""

    def __init__(self, upstream_url: str, allow: tuple[str, ...]) -> None:
        """Allow what is public by https, the upstream's own host and port, and `allow` (networks and hosts).

        Raises:
            ValueError: an entry of `allow` is neither.
        """
        parts = urlsplit(upstream_url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        own = host if ":" in host else f"{host}:{port}"
        self._destinations = Destinations((own, *allow))

    @cached_property
    def _outgoing(self) -> Outgoing:
        # Most upstreams never need it, and reading the authorities' certificates takes a while.
        return Outgoing(self._destinations, Resolver(), open_tls(""))

    async def fetch(self, url: str) -> bytes:
        """Return the file.

        Raises:
            EngineError: the address is refused, the file is too large, or it cannot be fetched.
        """
        try:
            async with self._outgoing.get(url, accept="image/*", limit=_LIMIT, max_bytes=LARGEST_BYTES) as fetched:
                return b"".join([piece async for piece in fetched.chunks])
        except Refused as refused:
            log.warning("upstream_picture_refused why=%s; outgoing_allow names more that may be fetched from", refused)
            raise EngineError("The upstream's picture lies where this worker may not fetch it.") from None
        except Unreachable as problem:
            raise EngineError(f"The upstream's picture could not be fetched: {problem}", retryable=True) from None

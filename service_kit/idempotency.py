"""What a call says about itself, in its metadata, so that a repeat of it is known to be one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

RETRY_COUNT = "atelier-retry-count"
"""How often the client has sent the request before."""

REQUEST_DIGEST = "atelier-request-digest"
"""Names what the client sent, where the message differs from one attempt to the next: a SHA-256 in hexadecimal.

Files of a form become new assets each time, so that only the gateway can tell that two requests are the same.
"""

_COUNT = re.compile(r"0*[1-9][0-9]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_retry(metadata: Iterable[tuple[str, Any]]) -> bool:
    """Tell whether the client says that it has sent this before: a count above 0."""
    return any(key == RETRY_COUNT and _COUNT.fullmatch(str(value)) for key, value in metadata)


def request_digest(metadata: Iterable[tuple[str, Any]]) -> str | None:
    """Return the digest of what the client sent; None when the message is the whole of it."""
    digests = [str(value) for key, value in metadata if key == REQUEST_DIGEST]
    return digests[0] if len(digests) == 1 and _DIGEST.fullmatch(digests[0]) else None

"""Signed addresses of media: `/media/<bucket>/<key>?g=…&expires=…&kid=…&sig=…`.

The owning service signs, the gateway verifies. Each service's key is good for its own bucket only, and whoever verifies
cannot forge, since signatures are Ed25519.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

from cryptography.exceptions import InvalidSignature

from service_kit.blobs import SignedUrl
from service_kit.clock import Clock
from service_kit.errors import PermissionDenied
from service_kit.key_types import SigningKey, VerifyKey


@dataclass(frozen=True, slots=True)
class MediaGrant:
    """The blob that a signed address gives access to."""

    bucket: str
    key: str
    generation: str
    expires_at: datetime


class MediaSigner:
    """Signs addresses of one bucket."""

    def __init__(self, key: SigningKey, bucket: str, clock: Clock, *, base_url: str) -> None:
        """Sign addresses that start with `base_url`, the public address of the gateway."""
        self._key = key
        self._bucket = bucket
        self._clock = clock
        self._base_url = base_url.rstrip("/")

    def sign(self, bucket: str, key: str, generation: str, ttl: timedelta) -> SignedUrl:
        """Return an address that works for `ttl`, rounded down to the second.

        Raises:
            ValueError: the bucket is another service's.
        """
        if bucket != self._bucket:
            raise ValueError(f"this key signs for {self._bucket}, not for {bucket}")
        expires_at = (self._clock.now() + ttl).replace(microsecond=0)
        expires = int(expires_at.timestamp())
        signature = self._key.private.sign(_message(bucket, key, generation, expires))
        query = {"g": generation, "expires": expires, "kid": self._key.key_id, "sig": _to_text(signature)}
        return SignedUrl(f"{self._base_url}/media/{bucket}/{quote(key)}?{urlencode(query)}", expires_at)


class MediaVerifier:
    """Verifies addresses of all buckets."""

    def __init__(self, read_keys: Callable[[], Sequence[VerifyKey]], clock: Clock) -> None:
        """Verify with the keys of the public ring."""
        self._keys = {key.key_id: key for key in read_keys()}
        self._clock = clock

    def verify(self, bucket: str, key: str, query: Mapping[str, str]) -> MediaGrant:
        """Return what a request for `/media/<bucket>/<key>` may read; bucket and key are percent-decoded.

        Raises:
            PermissionDenied: it is not signed by the bucket's owner, was changed, or has expired.
        """
        try:
            known = self._keys[query["kid"]]
            generation, expires = query["g"], int(query["expires"])
            known.public.verify(_from_text(query["sig"]), _message(bucket, key, generation, expires))
            expires_at = datetime.fromtimestamp(expires, UTC)
        except (KeyError, ValueError, OverflowError, OSError, InvalidSignature):
            raise PermissionDenied("The address is not signed: ask for a new one.") from None
        if known.bucket != bucket:
            raise PermissionDenied("The address is not signed: ask for a new one.")
        if expires_at <= self._clock.now():
            raise PermissionDenied("The address has expired: ask for a new one.")
        return MediaGrant(bucket, key, generation, expires_at)


def _message(bucket: str, key: str, generation: str, expires: int) -> bytes:
    return f"GET\n{bucket}\n{key}\n{generation}\n{expires}".encode()


def _to_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _from_text(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error

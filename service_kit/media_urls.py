"""Signed addresses of media: `/media/<bucket>/<key>?g=…&expires=…&kid=…&sig=…`.

The owning service signs, the gateway verifies. Each service's key is good for its own bucket only, and whoever verifies
cannot forge, since signatures are Ed25519. Keys rotate: a new one signs, and the old one verifies on for a while.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, quote_plus

from cryptography.exceptions import InvalidSignature

from service_kit.blobs import SignedUrl
from service_kit.clock import Clock
from service_kit.errors import PermissionDenied
from service_kit.key_types import SigningKey, VerifyKey
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_LOOK_AGAIN = timedelta(minutes=10)
_READ_AGAIN = timedelta(seconds=2)
# Addresses end at the steps of a clock, so many to the time that they work: until the next one a file has the same
# address, which browsers have in their cache, and which need not be signed again. Each asset has a clock of its own:
# else all pictures of a page would be fetched again in the same moment.
_STEPS = 12
_MOST_SIGNED = 5000


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
        self._signed: dict[tuple[str, str, int], SignedUrl] = {}

    def use(self, key: SigningKey) -> None:
        """Sign with another key from now on."""
        self._key = key
        self._signed.clear()

    def sign(self, bucket: str, key: str, generation: str, ttl: timedelta, *, of: str = "") -> SignedUrl:
        """Return an address that works for `ttl`, less a twelfth at most; within that time it is the same.

        Args:
            bucket: where the file is.
            key: its name there.
            generation: which of that name it is.
            ttl: how long the address is to work.
            of: what the file is a part of, by its id: all addresses of it end together. By default the file itself.

        Raises:
            ValueError: the bucket is another service's.
        """
        if bucket != self._bucket:
            raise ValueError(f"this key signs for {self._bucket}, not for {bucket}")
        step = max(1, int(ttl.total_seconds()) // _STEPS)
        latest = int((self._clock.now() + ttl).timestamp())
        expires = latest - (latest - zlib.crc32((of or key).encode())) % step
        known = self._signed.get((key, generation, expires))
        if known is not None:
            return known
        if len(self._signed) >= _MOST_SIGNED:
            self._signed.clear()
        signature = self._key.private.sign(_message(bucket, key, generation, expires))
        # A page has fifty of them, so by hand: a number, and two texts that need no quoting.
        query = f"g={quote_plus(generation)}&expires={expires}&kid={self._key.key_id}&sig={_to_text(signature)}"
        address = f"{self._base_url}/media/{bucket}/{quote(key)}?{query}"
        signed = self._signed[key, generation, expires] = SignedUrl(address, datetime.fromtimestamp(expires, UTC))
        return signed


class MediaVerifier:
    """Verifies addresses of all buckets."""

    def __init__(self, read_keys: Callable[[], Sequence[VerifyKey]], clock: Clock) -> None:
        """Verify with the keys of the public ring."""
        self._read_keys = read_keys
        self._keys = {key.key_id: key for key in read_keys()}
        self._clock = clock
        self._read_at = clock.now()

    async def learn(self, key_id: str) -> None:
        """Read the ring again for a key that is not known, at most every few seconds: it may be a new one."""
        if key_id not in self._keys and self._clock.now() - self._read_at >= _READ_AGAIN:
            self._read_at = self._clock.now()
            self._keys = {key.key_id: key for key in await asyncio.to_thread(self._read_keys)}

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


class MediaRotation:
    """Has a signer use a new key in time. Replicas share the rings, so each also takes up the key of another."""

    def __init__(self, signer: MediaSigner, rotate: Callable[[datetime], SigningKey], clock: Clock) -> None:
        """Ask `rotate` for the key to sign with at a moment."""
        self._signer = signer
        self._rotate = rotate
        self._clock = clock

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_AGAIN.total_seconds())

    async def look(self) -> None:
        """Look once. The old key signs on where the folder of keys cannot be written."""
        try:
            self._signer.use(await asyncio.to_thread(self._rotate, self._clock.now()))
        except OSError as error:
            log.warning("media_key_not_rotated", error=str(error))


def _message(bucket: str, key: str, generation: str, expires: int) -> bytes:
    return f"GET\n{bucket}\n{key}\n{generation}\n{expires}".encode()


def _to_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _from_text(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error

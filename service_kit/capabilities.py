"""Lease tokens and receipts: what the router and the asset service sign for each other.

Only they know the ring. Both are JWTs (RFC 7519, HS256) with a version, so that they are opaque to everybody who
carries them. Four are made or checked for each output, so this module writes the one form that it uses by itself: a
general library takes five times as long.
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service_kit.clock import Clock
from service_kit.errors import ErrorReason, InvalidArgument, Unauthenticated
from service_kit.identity import Owner
from service_kit.key_types import MacKey

_ALGORITHM = "HS256"
_VERSION = 1
_LEASE = "lease"
_RECEIPT = "receipt"
# What reading a made-up token ends with; the last of them for one that is nothing but brackets.
_NOT_OURS = (KeyError, TypeError, ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class ReferenceGrant:
    """A blob that the holder of a lease may read: a reference of its job."""

    bucket: str
    key: str
    generation: str
    asset_id: str


@dataclass(frozen=True, slots=True)
class LeaseClaims:
    """What a lease token grants: uploading the outputs of one stage under one fence, and reading its references."""

    job_id: str
    stage: int
    fence: int
    owner: Owner
    max_outputs: int
    max_bytes: int
    formats: tuple[str, ...]
    references: tuple[ReferenceGrant, ...]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ReceiptRendition:
    """The bytes of one rendition, as the asset service measured them; `kind` is the enum's lower-case name."""

    kind: str
    bucket: str
    key: str
    generation: str
    sha256: str
    size_bytes: int
    content_type: str
    width: int | None
    height: int | None
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The asset service's statement that the bytes of one output are there, as it measured them."""

    upload_id: str
    job_id: str
    stage: int
    fence: int
    asset_index: int
    bucket: str
    key: str
    generation: str
    sha256: str
    size_bytes: int
    content_type: str
    width: int | None
    height: int | None
    duration_ms: int | None
    renditions: tuple[ReceiptRendition, ...]


class Capabilities:
    """Signs with the first key of the ring and verifies with any."""

    def __init__(self, ring: Sequence[MacKey], clock: Clock) -> None:
        """Use a ring of at least one key."""
        self._first = ring[0]
        self._keys = {key.key_id: key.secret for key in ring}
        self._clock = clock

    def sign_lease(self, claims: LeaseClaims) -> str:
        """Return the lease token; its expiry is kept to the second, rounded down."""
        body = _fields_of(claims)
        body["owner"] = _fields_of(claims.owner)
        body["references"] = [_fields_of(reference) for reference in claims.references]
        body["exp"] = int(body.pop("expires_at").timestamp())
        return self._sign(_LEASE, body)

    def verify_lease(self, token: str) -> LeaseClaims:
        """Return what a lease token grants.

        Raises:
            Unauthenticated: it is not ours, was changed, has expired, or is something else.
        """
        try:
            body = self._verify(_LEASE, token)
            claims = LeaseClaims(
                **body
                | {
                    "owner": Owner(**body["owner"]),
                    "formats": tuple(body["formats"]),
                    "references": tuple(ReferenceGrant(**reference) for reference in body["references"]),
                    "expires_at": datetime.fromtimestamp(body.pop("exp"), UTC),
                }
            )
        except _NOT_OURS:
            raise Unauthenticated("The lease token is not valid.", ErrorReason.INVALID_LEASE) from None
        if claims.expires_at <= self._clock.now():
            raise Unauthenticated("The lease token has expired.", ErrorReason.INVALID_LEASE)
        return claims

    def sign_receipt(self, receipt: Receipt) -> str:
        """Return the receipt as text. It does not expire: what it says stays true until the settlement."""
        renditions = [_fields_of(rendition) for rendition in receipt.renditions]
        return self._sign(_RECEIPT, _fields_of(receipt) | {"renditions": renditions})

    def verify_receipt(self, text: str) -> Receipt:
        """Return what a receipt states.

        Raises:
            InvalidArgument: it is not ours, was changed, or is something else.
        """
        try:
            body = self._verify(_RECEIPT, text)
            renditions = tuple(ReceiptRendition(**rendition) for rendition in body["renditions"])
            return Receipt(**body | {"renditions": renditions})
        except _NOT_OURS:
            raise InvalidArgument.field(
                "receipt", "is not a receipt of the asset service", ErrorReason.INVALID_LEASE
            ) from None

    def _sign(self, kind: str, body: Mapping[str, Any]) -> str:
        header = {"alg": _ALGORITHM, "kid": self._first.key_id, "typ": kind}
        signed = b".".join(_encode(part) for part in (header, {**body, "typ": kind, "v": _VERSION}))
        return (signed + b"." + _mac(self._first.secret, signed)).decode("ascii")

    def _verify(self, kind: str, text: str) -> dict[str, Any]:
        """Return the body of what we have signed. Raises KeyError, TypeError or ValueError for anything else."""
        signed, _, mac = text.encode("ascii").rpartition(b".")
        header_part, _, body_part = signed.partition(b".")
        header = _decode(header_part)
        # Only the algorithm that we sign with: a token must not choose how it is checked.
        if header["alg"] != _ALGORITHM or not hmac.compare_digest(mac, _mac(self._keys[header["kid"]], signed)):
            raise ValueError("not signed by us")
        body = _decode(body_part)
        if body.pop("typ") != kind or body.pop("v") != _VERSION:
            raise ValueError("of another kind or version")
        return body


def _mac(secret: bytes, signed: bytes) -> bytes:
    return urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")


def _encode(part: Mapping[str, Any]) -> bytes:
    return urlsafe_b64encode(json.dumps(part, separators=(",", ":")).encode()).rstrip(b"=")


def _decode(part: bytes) -> dict[str, Any]:
    found = json.loads(urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    if not isinstance(found, dict):
        raise TypeError("not an object")
    return found


def _fields_of(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, not copied: `asdict` walks through all of them."""
    return {name: getattr(record, name) for name in type(record).__slots__}


_lease: ContextVar[LeaseClaims] = ContextVar("atelier_lease")


def current_lease() -> LeaseClaims:
    """Return what the lease token of the RPC that is running grants.

    Raises:
        Unauthenticated: there is none, as in an RPC that takes an identity.
    """
    try:
        return _lease.get()
    except LookupError:
        raise Unauthenticated("The call carries no lease token.", ErrorReason.INVALID_LEASE) from None


@contextmanager
def holding_lease(claims: LeaseClaims) -> Iterator[None]:
    """Let `current_lease()` answer with claims; for the interceptors and for tests."""
    token = _lease.set(claims)
    try:
        yield
    finally:
        _lease.reset(token)

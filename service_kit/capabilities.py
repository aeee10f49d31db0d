"""Lease tokens and receipts: what the router and the asset service sign for each other.

Only they know the ring. Both are JWTs (HS256) with a version, so that they are opaque to everybody who carries them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import jwt

from service_kit.clock import Clock
from service_kit.errors import ErrorReason, InvalidArgument, Unauthenticated
from service_kit.identity import Owner
from service_kit.key_types import MacKey

_ALGORITHM = "HS256"
_VERSION = 1
_LEASE = "lease"
_RECEIPT = "receipt"


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
        body = asdict(claims)
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
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
            raise Unauthenticated("The lease token is not valid.", ErrorReason.INVALID_LEASE) from None
        if claims.expires_at <= self._clock.now():
            raise Unauthenticated("The lease token has expired.", ErrorReason.INVALID_LEASE)
        return claims

    def sign_receipt(self, receipt: Receipt) -> str:
        """Return the receipt as text. It does not expire: what it says stays true until the settlement."""
        return self._sign(_RECEIPT, asdict(receipt))

    def verify_receipt(self, text: str) -> Receipt:
        """Return what a receipt states.

        Raises:
            InvalidArgument: it is not ours, was changed, or is something else.
        """
        try:
            body = self._verify(_RECEIPT, text)
            renditions = tuple(ReceiptRendition(**rendition) for rendition in body["renditions"])
            return Receipt(**body | {"renditions": renditions})
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
            raise InvalidArgument.field(
                "receipt", "is not a receipt of the asset service", ErrorReason.INVALID_LEASE
            ) from None

    def _sign(self, kind: str, body: Mapping[str, Any]) -> str:
        headers = {"kid": self._first.key_id, "typ": kind}
        return jwt.encode(
            {**body, "typ": kind, "v": _VERSION}, self._first.secret, algorithm=_ALGORITHM, headers=headers
        )

    def _verify(self, kind: str, text: str) -> dict[str, Any]:
        secret = self._keys[str(jwt.get_unverified_header(text).get("kid"))]
        body: dict[str, Any] = jwt.decode(text, secret, algorithms=[_ALGORITHM], options={"verify_exp": False})
        if body.pop("typ") != kind or body.pop("v") != _VERSION:
            raise ValueError("of another kind or version")
        return body


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

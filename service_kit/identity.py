"""Who calls: identity tokens, the caller of the running RPC, acting for an owner, and a service's own token.

An identity token is a JWT signed with Ed25519 (RFC 7519, RFC 8037) that lives five minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote

import jwt

from service_kit.clock import Clock
from service_kit.errors import ErrorReason, PermissionDenied, Unauthenticated
from service_kit.ids import new_id
from service_kit.key_types import SigningKey, VerifyKey
from service_kit.secret import Secret

AUTHORIZATION = "authorization"
ON_BEHALF_OF = "atelier-on-behalf-of"
LEASE_TOKEN = "atelier-lease-token"  # noqa: S105 - the name of a metadata entry, not a secret
TOKEN_TTL = timedelta(minutes=5)

_ISSUER = "atelier"
_AUDIENCE = "atelier"
_ALGORITHM = "EdDSA"
_REFRESH_BEFORE = timedelta(seconds=60)
_RELOAD_EVERY_S = 5.0
_MAX_OWNER_PART = 128
# About 3 MB. A caller uses its token for minutes, and checking a signature costs more than the rest of a call.
_MOST_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose something is; both parts are opaque."""

    tenant_id: str
    owner_id: str


class KeyKind(StrEnum):
    """What a key is for."""

    USER = "user"
    ADMIN = "admin"
    WORKER = "worker"
    INTERNAL = "internal"
    SERVICE = "service"
    SESSION = "session"


class Scope(StrEnum):
    """What an identity may do."""

    USE = "use"
    ADMIN = "admin"
    WORK = "work"
    ACT = "act"
    SERVICE = "service"


SCOPES: dict[KeyKind, frozenset[Scope]] = {
    KeyKind.USER: frozenset({Scope.USE}),
    KeyKind.ADMIN: frozenset({Scope.USE, Scope.ADMIN}),
    KeyKind.WORKER: frozenset({Scope.WORK}),
    KeyKind.INTERNAL: frozenset({Scope.USE, Scope.ACT}),
    KeyKind.SERVICE: frozenset({Scope.USE, Scope.ACT, Scope.SERVICE}),
}
"""The scopes of each kind of key. A session has those of the key that made its code."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How many requests a minute a key may make, and its owner with all keys together.

    None: what the settings of the gateway say. 0: any number.
    """

    key: int | None = None
    owner: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `owner` is whose things it is about, `actor` who really calls; they differ on behalf of somebody.

    `session_of`: the key that a session comes from, empty for other kinds.
    """

    owner: Owner
    actor: Owner
    kind: KeyKind
    scopes: frozenset[Scope]
    key_id: str
    expires_at: datetime
    rates: Rates = Rates()
    session_of: str = ""

    def acting_for(self, owner: Owner) -> Caller:
        """Return the same caller on behalf of an owner.

        Raises:
            PermissionDenied: without the scope `act`; for another tenant than the caller's, unless it is one of our
                services.
        """
        if Scope.ACT not in self.scopes:
            raise PermissionDenied("This identity may not act on behalf of others.")
        if Scope.SERVICE not in self.scopes and owner.tenant_id != self.actor.tenant_id:
            raise PermissionDenied("This identity may act on behalf of owners of its own tenant only.")
        return replace(self, owner=owner)


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An identity token and when it stops working."""

    token: Secret
    expires_at: datetime


class IdentitySigner:
    """Signs identity tokens; only the router has one."""

    def __init__(self, key: SigningKey, clock: Clock) -> None:
        """Sign with one key of the identity ring."""
        self._key = key
        self._clock = clock

    def issue(
        self,
        *,
        owner: Owner,
        kind: KeyKind,
        key_id: str,
        scopes: frozenset[Scope] | None = None,
        ttl: timedelta = TOKEN_TTL,
        rates: Rates = Rates(),
        session_of: str = "",
    ) -> IssuedToken:
        """Issue a token. A session states the scopes that it has; every other kind has its own."""
        now = self._clock.now()
        expires_at = (now + ttl).replace(microsecond=0)
        granted = SCOPES[kind] if scopes is None else scopes
        claims: dict[str, Any] = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": owner.owner_id,
            "tid": owner.tenant_id,
            "kid": key_id,
            "knd": kind.value,
            "scp": sorted(granted),
            "iat": int(now.timestamp()),
            "exp": int(expires_at.timestamp()),
            "jti": new_id(),
        }
        if rates != Rates():
            claims["rpm"] = [rates.key, rates.owner]
        if session_of:
            claims["sof"] = session_of
        token = jwt.encode(claims, self._key.private, algorithm=_ALGORITHM, headers={"kid": self._key.key_id})
        return IssuedToken(Secret(token), expires_at)


class IdentityVerifier:
    """Verifies identity tokens with the public ring, which is read again when a key is not in it."""

    def __init__(self, read_keys: Callable[[], Sequence[VerifyKey]], clock: Clock) -> None:
        """Verify with the keys that `read_keys` returns."""
        self._read_keys = read_keys
        self._clock = clock
        self._keys: dict[str, VerifyKey] = {}
        self._read_at = float("-inf")
        # The oldest first. Of a token that was verified nothing can change but that it expires.
        self._known: dict[str, Caller] = {}

    def verify(self, token: str) -> Caller:
        """Return who a token speaks for.

        Raises:
            Unauthenticated: it is not ours, was changed, or has expired (reason `expired_identity`).
        """
        caller = self._known.get(token)
        if caller is None:
            caller = self._verified(token)
            if len(self._known) >= _MOST_KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[token] = caller
        if caller.expires_at <= self._clock.now():
            self._known.pop(token, None)
            raise expired_identity()
        return caller

    def _verified(self, token: str) -> Caller:
        try:
            key = self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=_ISSUER,
                options={"require": ["exp", "iat", "sub", "aud", "iss"], "verify_exp": False, "verify_iat": False},
            )
            return _caller_from(claims)
        except (jwt.InvalidTokenError, KeyError, ValueError, TypeError):
            raise Unauthenticated("The identity token is not valid: exchange the API key again.") from None

    def _key(self, key_id: object) -> VerifyKey:
        # A token of a new key makes the ring be read again, but made-up key ids must not make it be read each time.
        if key_id not in self._keys and time.monotonic() - self._read_at >= _RELOAD_EVERY_S:
            self._read_at = time.monotonic()
            self._keys = {key.key_id: key for key in self._read_keys()}
        return self._keys[str(key_id)]


def expired_identity() -> Unauthenticated:
    """Return the error of a token that has expired, at the start of a call or in the middle of a stream."""
    return Unauthenticated("The identity token has expired: exchange the API key again.", ErrorReason.EXPIRED_IDENTITY)


def _caller_from(claims: dict[str, Any]) -> Caller:
    owner = Owner(claims["tid"], claims["sub"])
    return Caller(
        owner=owner,
        actor=owner,
        kind=KeyKind(claims["knd"]),
        scopes=frozenset(Scope(scope) for scope in claims["scp"]),
        key_id=claims["kid"],
        expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        rates=Rates(*claims.get("rpm", ())),
        session_of=claims.get("sof", ""),
    )


_caller: ContextVar[Caller] = ContextVar("atelier_caller")


def current_caller() -> Caller:
    """Return who calls the RPC that is running.

    Raises:
        Unauthenticated: nobody is known, as in an RPC that is open or takes a lease token.
    """
    try:
        return _caller.get()
    except LookupError:
        raise Unauthenticated("The call carries no identity.", ErrorReason.MISSING_IDENTITY) from None


@contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """Let `current_caller()` answer with a caller; for the interceptors and for tests."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def on_behalf_of(owner: Owner) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call for an owner: `stub.TakeHold(request, metadata=on_behalf_of(owner))`."""
    return ((ON_BEHALF_OF, f"{quote(owner.tenant_id, safe='')}/{quote(owner.owner_id, safe='')}"),)


def parse_on_behalf_of(text: str) -> Owner:
    """Return the owner that a metadata entry names. Raises PermissionDenied for another shape."""
    tenant_id, slash, owner_id = text.partition("/")
    if not (tenant_id and slash and owner_id) or "/" in owner_id:
        raise PermissionDenied(f"{ON_BEHALF_OF} must be <tenant_id>/<owner_id>, each percent-encoded.")
    try:
        # Strict: with replacement characters two different owners would become one.
        owner = Owner(unquote(tenant_id, errors="strict"), unquote(owner_id, errors="strict"))
    except UnicodeDecodeError:
        raise PermissionDenied(f"{ON_BEHALF_OF} must be percent-encoded UTF-8.") from None
    for part in (owner.tenant_id, owner.owner_id):
        if not part.isprintable() or part != part.strip() or "@" in part or len(part) > _MAX_OWNER_PART:
            raise PermissionDenied(
                f"{ON_BEHALF_OF} must name a tenant and an owner of at most {_MAX_OWNER_PART} printable characters "
                "each, without spaces around them and without @: e-mail addresses are no ids."
            )
    return owner


class TokenSource:
    """A service's own identity token: exchanged when it is first needed and again a minute before it expires."""

    def __init__(self, exchange: Callable[[], Awaitable[IssuedToken]], clock: Clock) -> None:
        """Get tokens from `exchange`, which asks the IdentityService (or, in the router, signs)."""
        self._exchange = exchange
        self._clock = clock
        self._lock = asyncio.Lock()
        self._issued: IssuedToken | None = None

    async def get(self) -> str:
        """Return a token that is good for at least a minute. Any number of callers cause one exchange."""
        issued = self._fresh()
        if issued is None:
            async with self._lock:
                issued = self._fresh()
                if issued is None:
                    issued = self._issued = await self._exchange()
        return issued.token.reveal()

    def forget(self) -> None:
        """Exchange again at the next call: the token was refused."""
        self._issued = None

    def _fresh(self) -> IssuedToken | None:
        issued = self._issued
        return issued if issued is not None and issued.expires_at - self._clock.now() > _REFRESH_BEFORE else None

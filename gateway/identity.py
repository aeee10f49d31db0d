"""Who asks: the key or token of a request, and the identity token that a key is exchanged for.

An API key is looked up by its SHA-256, never kept; tokens are cached until a minute before they expire.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.cookies import CookieError, SimpleCookie

from gateway.status import missing_identity
from service_kit.clock import Clock
from service_kit.errors import AtelierError, PermissionDenied, Unauthenticated
from service_kit.identity import ON_BEHALF_OF, IssuedToken
from service_kit.secret import Secret
from service_kit.tasks import end

SESSION_COOKIE = "atelier_session"
_SCHEMES = frozenset({"bearer"})
_COOKIE_METHODS = ("GET", "HEAD")
_REFRESH_BEFORE = timedelta(seconds=60)
_REMEMBER_REFUSAL = timedelta(seconds=2)
_MAX_CREDENTIAL = 4096

Exchange = Callable[[Secret], Awaitable[IssuedToken]]
KeysOf = Callable[[str], Collection[str]]
"""Returns the ids of the keys that a token was made from: its key, and the one that a session comes from."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request carries: an API key, or an identity token that the client got itself."""

    text: Secret
    is_token: bool


def credential_of(headers: Mapping[str, str], method: str, schemes: frozenset[str] = _SCHEMES) -> Credential | None:
    """Return what the request carries; None when it carries nothing.

    `Authorization` with one of `schemes`, `x-api-key`, or for GET and HEAD the session's cookie.

    Raises:
        Unauthenticated: another scheme, or two different credentials.
    """
    bearer = _authorization(headers.get("authorization"), schemes)
    key = headers.get("x-api-key")
    if bearer is not None and key is not None and bearer != key:
        raise Unauthenticated("The request carries two different credentials: Authorization and x-api-key.")
    text = bearer if bearer is not None else key
    if text is None and method in _COOKIE_METHODS:
        text = _cookie(headers.get("cookie", ""))
    if text is None:
        return None
    if not text.isascii() or not text.isprintable() or not 0 < len(text) <= _MAX_CREDENTIAL or " " in text:
        raise Unauthenticated("The key or token has characters that none of ours has.")
    return Credential(Secret(text), is_token=text.startswith("ey") and text.count(".") == 2)


def _authorization(header: str | None, schemes: frozenset[str]) -> str | None:
    if header is None:
        return None
    scheme, _, text = header.strip().partition(" ")
    if scheme.lower() not in schemes:
        said = " or ".join(sorted(scheme.capitalize() for scheme in schemes))
        raise Unauthenticated(f"The scheme of Authorization must be {said}.")
    return text.strip()


def _cookie(header: str) -> str | None:
    try:
        found = SimpleCookie(header).get(SESSION_COOKIE)
    except CookieError:
        return None
    return found.value if found is not None else None


def on_behalf_of(headers: Mapping[str, str]) -> str | None:
    """Return the owner that an internal service acts for, as it sent it; None when it acts for itself."""
    text = headers.get(ON_BEHALF_OF)
    if text is not None and (not text.isascii() or not text.isprintable() or len(text) > 1024):
        raise PermissionDenied(f"{ON_BEHALF_OF} must be <tenant_id>/<owner_id>, each percent-encoded.")
    return text


def session_cookie(secret: str, expires_at: datetime | None, now: datetime, *, secure: bool) -> str:
    """Return the Set-Cookie header of a session: for GET only, never for scripts, never for other sites."""
    parts = [f"{SESSION_COOKIE}={secret}", "Path=/", "HttpOnly", "SameSite=Strict"]
    if expires_at is not None:
        parts.append(f"Max-Age={max(0, int((expires_at - now).total_seconds()))}")
    if secure:
        parts.append("Secure")
    return "; ".join(parts)


def _no_keys(token: str) -> Collection[str]:
    return ()


class Identities:
    """Turns credentials into identity tokens; any number of requests with one key cause one exchange."""

    def __init__(self, exchange: Exchange, clock: Clock, *, keys_of: KeysOf = _no_keys, capacity: int = 10_000) -> None:
        """Exchange keys with `exchange`; remember the tokens of the `capacity` keys that were used last.

        `keys_of` says from which keys a token was made, for `forget`.
        """
        self._exchange = exchange
        self._clock = clock
        self._keys_of = keys_of
        self._capacity = capacity
        self._tokens: OrderedDict[bytes, tuple[IssuedToken, frozenset[str]]] = OrderedDict()
        self._refusals: OrderedDict[bytes, tuple[datetime, Unauthenticated]] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[IssuedToken]] = {}

    async def token(self, credential: Credential | None) -> str:
        """Return an identity token for a credential.

        Raises:
            Unauthenticated: there is none, or the key is refused.
            Unavailable: the router cannot be reached.
        """
        if credential is None:
            raise missing_identity()
        if credential.is_token:
            return credential.text.reveal()
        name = hashlib.sha256(credential.text.reveal().encode()).digest()
        known = self._known(name)
        if known is not None:
            return known.token.reveal()
        task = self._running.get(name)
        if task is None:
            task = asyncio.create_task(self._fetch(name, credential.text), name="exchange-key")
            self._running[name] = task
            task.add_done_callback(lambda done: self._finished(name, done))
        # A client that leaves must not take the exchange away from the others that wait for it.
        return (await asyncio.shield(task)).token.reveal()

    def forget(self, key_ids: Set[str]) -> bool:
        """Use the tokens of some keys no more: whoever goes on with such a key is asked for anew.

        Tells whether there were any.
        """
        names = [name for name, (_, made_of) in self._tokens.items() if not made_of.isdisjoint(key_ids)]
        for name in names:
            del self._tokens[name]
        return bool(names)

    async def close(self) -> None:
        """Stop the exchanges that are under way."""
        await end(list(self._running.values()))

    def _known(self, name: bytes) -> IssuedToken | None:
        now = self._clock.now()
        issued, _ = self._tokens.get(name, (None, frozenset()))
        if issued is not None:
            if issued.expires_at - now > _REFRESH_BEFORE:
                self._tokens.move_to_end(name)
                return issued
            del self._tokens[name]
        refused = self._refusals.get(name)
        if refused is not None:
            if now < refused[0]:
                # A new error each time: a raised exception collects the traces of all who raise it.
                raise Unauthenticated(refused[1].message, refused[1].reason)
            del self._refusals[name]
        return None

    async def _fetch(self, name: bytes, key: Secret) -> IssuedToken:
        try:
            issued = await self._exchange(key)
        except Unauthenticated as error:
            self._refusals[name] = (self._clock.now() + _REMEMBER_REFUSAL, error)
            _shrink(self._refusals, self._capacity)
            raise
        self._tokens[name] = issued, frozenset(self._keys_of(issued.token.reveal()))
        _shrink(self._tokens, self._capacity)
        return issued

    def _finished(self, name: bytes, task: asyncio.Task[IssuedToken]) -> None:
        self._running.pop(name, None)
        if not task.cancelled() and isinstance(task.exception(), AtelierError):
            # Whoever waits has the error; it is looked at here, so that nobody waiting is no fault either.
            return


def _shrink(
    entries: OrderedDict[bytes, tuple[IssuedToken, frozenset[str]]]
    | OrderedDict[bytes, tuple[datetime, Unauthenticated]],
    capacity: int,
) -> None:
    while len(entries) > capacity:
        entries.popitem(last=False)

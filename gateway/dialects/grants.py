"""Addresses that need no key, for clients that send none: each opens one thing of one owner until a time.

It works no longer than the key with which it was made.

They are signed with a key that is made of the gateway's own, so that every gateway of an installation knows them, and
what is behind them is called for by the gateway on behalf of the owner.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.backends import Metadata
from gateway.identity import Credential
from service_kit.clock import Clock
from service_kit.errors import ErrorReason, Unauthenticated
from service_kit.identity import AUTHORIZATION, ON_BEHALF_OF, Caller, IdentityVerifier, on_behalf_of, parse_on_behalf_of
from service_kit.secret import Secret

_LABEL = b"atelier.gateway.grant/2"
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Grant:
    """What an address opens."""

    purpose: str
    subject: str
    owner: str
    """The owner as the metadata of a call names it."""
    key_id: str
    """The key with which the address was made."""


class Grants:
    """Signs and reads grants."""

    def __init__(self, read_key: Callable[[], Secret], verifier: IdentityVerifier, clock: Clock) -> None:
        """Sign with a key that is made of what `read_key` returns, the gateway's own API key. It is read once."""
        self._read_key = read_key
        self._known: Secret | None = None
        self._verifier = verifier
        self._clock = clock

    def sign(self, entries: Metadata, purpose: str, subject: str, lasts: timedelta) -> str:
        """Return a grant for the owner that calls with `entries` are about.

        Raises:
            Unauthenticated: they carry no identity that is good.
            PermissionDenied: it may not act for the owner that they name.
        """
        until = self._clock.now() + lasts
        caller = self._caller(entries)
        owner = on_behalf_of(caller.owner)[0][1]
        content = [purpose, subject, owner, caller.key_id, int(until.timestamp())]
        payload = json.dumps(content, separators=(",", ":")).encode()
        return f"{_text(payload)}.{_text(self._signature(payload))}"

    def read(self, text: str, purpose: str) -> Grant:
        """Return what a grant opens. Whether its key still works is another question.

        Raises:
            Unauthenticated: it is none of ours, it has expired, or it opens something else.
        """
        try:
            if len(text) > _MOST:
                raise ValueError
            payload, signature = (_bytes(part) for part in text.split("."))
            if not hmac.compare_digest(signature, self._signature(payload)):
                raise ValueError
            said, subject, owner, key_id, until = json.loads(payload)
            good = said == purpose and datetime.fromtimestamp(until, self._clock.now().tzinfo) > self._clock.now()
        except (ValueError, binascii.Error):
            raise Unauthenticated("The address is none of ours.", ErrorReason.INVALID_IDENTITY) from None
        if not good:
            raise Unauthenticated("The address works no more: ask for a new one.", ErrorReason.EXPIRED_IDENTITY)
        return Grant(said, subject, owner, key_id)

    @property
    def credential(self) -> Credential:
        """What the gateway calls with on behalf of the owner of a grant."""
        return Credential(self._key, is_token=False)

    @property
    def _key(self) -> Secret:
        if self._known is None:
            self._known = self._read_key()
        return self._known

    def _caller(self, entries: Metadata) -> Caller:
        found = dict(entries)
        caller = self._verifier.verify(found.get(AUTHORIZATION, "").removeprefix("Bearer "))
        said = found.get(ON_BEHALF_OF)
        if said is not None:
            return caller.acting_for(parse_on_behalf_of(said))
        return caller

    def _signature(self, payload: bytes) -> bytes:
        key = hmac.digest(self._key.reveal().encode(), _LABEL, hashlib.sha256)
        return hmac.digest(key, payload, hashlib.sha256)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)

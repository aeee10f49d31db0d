"""API keys as text: `atl_<key_id>_<secret>`. Only the hash of the secret is stored, and the text is shown once."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from service_kit.errors import Unauthenticated
from service_kit.secret import Secret

_SECRET_BYTES = 32
_TEXT = re.compile(r"atl_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: what to store, and the text to show once."""

    key_id: str
    secret_hash: str
    text: Secret


def new_api_key() -> NewKey:
    """Make a key of 256 random bits."""
    key_id = secrets.token_hex(8)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    return NewKey(key_id, _hash(secret), Secret(f"atl_{key_id}_{secret}"))


def parse_api_key(text: str) -> tuple[str, Secret]:
    """Return key id and secret.

    Raises:
        Unauthenticated: the text has another shape; it is not repeated.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise Unauthenticated("The API key has the wrong shape: it starts with atl_ and has three parts.")
    return match[1], Secret(match[2])


def read_back(text: Secret) -> NewKey:
    """Return what to store for a key whose text is known, such as one from a key file.

    Raises:
        Unauthenticated: the text has another shape.
    """
    key_id, secret = parse_api_key(text.reveal())
    return NewKey(key_id, _hash(secret.reveal()), text)


def secret_matches(secret: Secret, stored_hash: str) -> bool:
    """Tell in constant time whether a secret is the one that was stored.

    SHA-256 without a salt is enough, since nobody can guess 256 random bits.
    """
    return hmac.compare_digest(_hash(secret.reveal()), stored_hash)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

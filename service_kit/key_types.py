"""Keys as those who sign and verify hold them; where they are kept is the business of `keyring`."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key that signs, by its id."""

    key_id: str
    private: Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """An Ed25519 key that verifies; for media, in one bucket only."""

    key_id: str
    public: Ed25519PublicKey
    bucket: str


@dataclass(frozen=True, slots=True)
class MacKey:
    """An HMAC key, by its id."""

    key_id: str
    secret: bytes

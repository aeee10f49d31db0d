"""The rings of keys in `<data>/keys`: who signs what, and who can only verify.

Files are made by whoever starts first, mode 0600.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET
from service_kit.clock import Clock, parse_rfc3339, rfc3339
from service_kit.errors import FailedPrecondition
from service_kit.key_types import MacKey, SigningKey, VerifyKey
from service_kit.secret import Secret

if TYPE_CHECKING:
    from service_kit.capabilities import Capabilities
    from service_kit.identity import IdentitySigner, IdentityVerifier
    from service_kit.media_urls import MediaRotation, MediaSigner, MediaVerifier

MediaOwner = Literal["asset", "library"]

_VERSION = 1
_IDENTITY_SIGNING = "identity-signing.json"
_IDENTITY_VERIFY = "identity-verify.json"
_CAPABILITY = "capability.json"
_MEDIA_SIGNING: Mapping[MediaOwner, str] = {
    "asset": "media-asset-signing.json",
    "library": "media-library-signing.json",
}
_MEDIA_VERIFY = "media-verify.json"
_WEBHOOK = "webhook.json"
_MEDIA_BUCKETS: Mapping[MediaOwner, str] = {"asset": WORKSPACE_BUCKET, "library": LIBRARY_BUCKET}


class Keyrings:
    """All rings below one folder. Each service asks only for what it may have; a missing file is made on the way."""

    def __init__(self, folder: Path) -> None:
        """Choose the folder; it is made, with mode 0700, when the first file is."""
        self._folder = folder

    def identity_signer(self, clock: Clock) -> IdentitySigner:
        """Return what signs identity tokens. For the router only."""
        from service_kit.identity import IdentitySigner

        return IdentitySigner(self._signing_key(_IDENTITY_SIGNING), clock)

    def identity_verifier(self, clock: Clock) -> IdentityVerifier:
        """Return what verifies identity tokens. For every service."""
        from service_kit.identity import IdentityVerifier

        self._make_identity()
        return IdentityVerifier(lambda: self._verify_keys(_IDENTITY_VERIFY), clock)

    def capabilities(self, clock: Clock) -> Capabilities:
        """Return what signs and verifies lease tokens and receipts. For the router and the asset service."""
        from service_kit.capabilities import Capabilities

        self._make(_CAPABILITY, _new_mac_ring)
        return Capabilities([MacKey(key["kid"], _decode(key["secret"])) for key in self._keys(_CAPABILITY)], clock)

    def webhook_keys(self) -> list[MacKey]:
        """Return what the secrets of webhooks are made from, the newest first. For the router only."""
        self._make(_WEBHOOK, _new_mac_ring)
        return [MacKey(key["kid"], _decode(key["secret"])) for key in self._keys(_WEBHOOK)]

    def media_signer(self, owner: MediaOwner, clock: Clock, *, base_url: str) -> MediaSigner:
        """Return what signs media URLs of one service's bucket."""
        from service_kit.media_urls import MediaSigner

        return MediaSigner(self._signing_key(_MEDIA_SIGNING[owner]), _MEDIA_BUCKETS[owner], clock, base_url=base_url)

    def media_rotation(
        self, owner: MediaOwner, signer: MediaSigner, clock: Clock, *, lifetime: timedelta
    ) -> MediaRotation:
        """Return what gives a signer a new key each time it has signed for `lifetime`."""
        from service_kit.media_urls import MediaRotation

        return MediaRotation(signer, lambda now: self.rotate_media(owner, now=now, lifetime=lifetime), clock)

    def rotate_media(self, owner: MediaOwner, *, now: datetime, lifetime: timedelta) -> SigningKey:
        """Return what signs media URLs from now on: a new key once the old one has signed for `lifetime`.

        A key that signs no more still verifies for another `lifetime`, so that no address ends before it says. Whoever
        verifies can know the new key before anything is signed with it: the public ring is written first.
        """
        name = _MEDIA_SIGNING[owner]
        self._make_media()
        if not self._is_due(name, now, lifetime):
            return self._signing_key(name)
        with self._locked():
            # Another replica may have been first.
            if self._is_due(name, now, lifetime):
                fresh = _new_signing_ring(now)
                mine = {"bucket": _MEDIA_BUCKETS[owner]}
                kept = [
                    key if key["bucket"] != mine["bucket"] else {"retired_at": rfc3339(now), **key}
                    for key in self._keys(_MEDIA_VERIFY)
                ]
                known = [key for key in kept if now - parse_rfc3339(key.get("retired_at", rfc3339(now))) < lifetime]
                self._replace(_MEDIA_VERIFY, [*(_public(key) | mine for key in fresh), *known])
                self._replace(name, fresh)
        return self._signing_key(name)

    def _is_due(self, name: str, now: datetime, lifetime: timedelta) -> bool:
        return now - parse_rfc3339(self._keys(name)[0]["created_at"]) >= lifetime

    def media_verifier(self, clock: Clock) -> MediaVerifier:
        """Return what verifies media URLs. For the gateway."""
        from service_kit.media_urls import MediaVerifier

        self._make_media()
        return MediaVerifier(lambda: self._verify_keys(_MEDIA_VERIFY), clock)

    def write_key_file(self, name: str, key: Secret) -> Path:
        """Write an API key into a file of one line, mode 0600, in place of what was there. Returns its path."""
        path = self._prepared() / name
        partial = self._draft(key.reveal() + "\n")
        partial.replace(path)
        return path

    def read_key_file(self, name: str) -> Secret:
        """Return the API key of a file that the router's first start wrote.

        Raises:
            FailedPrecondition: there is no such file.
        """
        try:
            return Secret((self._folder / name).read_text("utf-8").strip())
        except FileNotFoundError:
            raise FailedPrecondition(
                f"There is no key file {name} in the folder of keys: start the router once, which writes it."
            ) from None

    def _signing_key(self, name: str) -> SigningKey:
        self._make_identity() if name == _IDENTITY_SIGNING else self._make_media()
        newest = self._keys(name)[0]
        return SigningKey(newest["kid"], Ed25519PrivateKey.from_private_bytes(_decode(newest["private"])))

    def _verify_keys(self, name: str) -> list[VerifyKey]:
        return [
            VerifyKey(key["kid"], Ed25519PublicKey.from_public_bytes(_decode(key["public"])), key.get("bucket", ""))
            for key in self._keys(name)
        ]

    def _make_identity(self) -> None:
        self._make(_IDENTITY_SIGNING, _new_signing_ring)
        self._make(_IDENTITY_VERIFY, lambda: [_public(key) for key in self._keys(_IDENTITY_SIGNING)])

    def _make_media(self) -> None:
        for name in _MEDIA_SIGNING.values():
            self._make(name, _new_signing_ring)
        self._make(
            _MEDIA_VERIFY,
            lambda: [
                _public(key) | {"bucket": _MEDIA_BUCKETS[owner]}
                for owner, name in _MEDIA_SIGNING.items()
                for key in self._keys(name)
            ],
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from changing rings."""
        descriptor = os.open(self._prepared() / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace(self, name: str, keys: Sequence[Mapping[str, str]]) -> None:
        """Write a ring in place of what was there, in one step."""
        self._draft(_ring_text(keys)).replace(self._folder / name)

    def _make(self, name: str, keys: Callable[[], Sequence[Mapping[str, str]]]) -> None:
        """Make a ring's file unless it is there. Whoever comes second uses the file of the first."""
        path = self._folder / name
        if path.exists():
            return
        self._prepared()
        draft = self._draft(_ring_text(keys()))
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        finally:
            draft.unlink()

    def _prepared(self) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder

    def _draft(self, text: str) -> Path:
        path = self._folder / f".{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        return path

    def _keys(self, name: str) -> list[Mapping[str, Any]]:
        """Return the keys of a ring, the one that signs first."""
        try:
            ring = json.loads((self._folder / name).read_bytes())
            keys = list(ring["keys"])
            version = ring["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise FailedPrecondition(
                f"The ring {name} in the folder of keys is damaged: restore it from a backup."
            ) from error
        if version != _VERSION or not keys:
            raise FailedPrecondition(
                f"The ring {name} in the folder of keys has version {version}; this release reads {_VERSION}."
            )
        return keys


def _ring_text(keys: Sequence[Mapping[str, str]]) -> str:
    return json.dumps({"version": _VERSION, "keys": list(keys)}, indent=1) + "\n"


def _new_signing_ring(now: datetime | None = None) -> list[dict[str, str]]:
    private = Ed25519PrivateKey.generate()
    return [
        {
            "kid": secrets.token_hex(8),
            "created_at": rfc3339(now or datetime.now(UTC)),
            "private": _encode(private.private_bytes_raw()),
        }
    ]


def _new_mac_ring() -> list[dict[str, str]]:
    return [
        {
            "kid": secrets.token_hex(8),
            "created_at": rfc3339(datetime.now(UTC)),
            "secret": _encode(secrets.token_bytes(32)),
        }
    ]


def _public(key: Mapping[str, Any]) -> dict[str, str]:
    public = Ed25519PrivateKey.from_private_bytes(_decode(key["private"])).public_key()
    return {
        "kid": key["kid"],
        "created_at": key["created_at"],
        "public": _encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)),
    }


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text)

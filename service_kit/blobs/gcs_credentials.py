"""Who asks Google Cloud Storage, and who signs its addresses: a key of the credentials, or Google with an account's.

Credentials of a machine, a pod or a federation have no private key. Their account may ask Google's IAM to sign for it
(`signBlob` of the IAM Credentials API v1), for which it needs the role Service Account Token Creator on itself.
"""

from __future__ import annotations

import os
from typing import Any

import google.auth
from google.auth import iam
from google.auth.credentials import AnonymousCredentials, Credentials, Scoped, Signing
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.requests import Request

from service_kit.errors import FailedPrecondition
from service_kit.settings_table import BlobSettings

OWN = "default"
"""Names the account that the credentials are of."""

_STORAGE_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
_SIGNING_SCOPES = ("https://www.googleapis.com/auth/iam",)
_EMULATOR_ENV, _FILE_ENV = "STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"


def credentials_of(settings: BlobSettings) -> tuple[Credentials, Signing | None]:
    """Return the credentials that the environment has, and what signs addresses, if anybody does.

    An emulator is asked without credentials; what signs its addresses is a key file, if one is named.

    Raises:
        FailedPrecondition: there are no credentials, they cannot be read, or nobody knows whose they are.
    """
    emulated = _EMULATOR_ENV in os.environ
    if emulated and _FILE_ENV not in os.environ:
        return AnonymousCredentials(), None
    try:
        found, _ = google.auth.default(scopes=_STORAGE_SCOPES)
    except DefaultCredentialsError as error:
        raise FailedPrecondition(
            f"blobs.url is in Google Cloud Storage, and there are no credentials for it: set {_FILE_ENV} to a key "
            f"file, or run where an account is attached. {error}"
        ) from None
    signing = signing_of(found, settings.signing_account, timeout_s=settings.request_timeout.total_seconds())
    return (AnonymousCredentials() if emulated else found), signing


class AskedSigning(Signing):  # type: ignore[misc]
    """Has Google sign with the key of an account. Each signature is a request, and blocks."""

    def __init__(self, credentials: Credentials, account: str, timeout_s: float) -> None:
        """Sign as an account, by its e-mail address, with credentials that may ask for it."""
        self._account = account
        self._signer = iam.Signer(_Bounded(timeout_s), credentials, account)

    @property
    def signer_email(self) -> str:
        """Return the account that signs."""
        return self._account

    @property
    def signer(self) -> iam.Signer:
        """Return what signs."""
        return self._signer

    def sign_bytes(self, message: bytes) -> bytes:
        """Return a signature. Raises GoogleAuthError when Google cannot be reached, or refuses."""
        signature: bytes = self._signer.sign(message)
        return signature


def signing_of(credentials: Credentials, account: str, *, timeout_s: float) -> Signing | None:
    """Return what signs addresses; None when nobody does.

    Args:
        credentials: those of the process.
        account: whose key signs: an e-mail address, or `default` for the account of the credentials; empty for the
            credentials' own key, if they have one.
        timeout_s: how long a request may take.

    Raises:
        FailedPrecondition: the account is `default`, and cannot be found out.
    """
    if not account:
        return credentials if isinstance(credentials, Signing) else None
    if isinstance(credentials, Scoped):
        credentials = credentials.with_scopes(_SIGNING_SCOPES)
    return AskedSigning(credentials, account if account != OWN else _account_of(credentials, timeout_s), timeout_s)


def _account_of(credentials: Credentials, timeout_s: float) -> str:
    account = getattr(credentials, "service_account_email", None)
    if account == OWN:
        # A machine's account has this name until it was asked for.
        try:
            credentials.refresh(_Bounded(timeout_s))
        except GoogleAuthError as error:
            raise _unknown(f"the metadata server does not tell it: {error}") from None
        account = credentials.service_account_email
    if not account or account == OWN:
        raise _unknown("the credentials are of no service account")
    return str(account)


def _unknown(why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"blobs.signing_account is {OWN}, and {why}. Name the account by its e-mail address, or leave the setting "
        "empty: then the bytes of media go through the gateway."
    )


class _Bounded(Request):  # type: ignore[misc]
    """Requests that take so long at most, whatever their caller thinks."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    def __call__(self, url: str, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Make a request."""
        limit = self._timeout_s if timeout is None else min(timeout, self._timeout_s)
        return super().__call__(url, *args, timeout=limit, **kwargs)

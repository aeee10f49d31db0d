"""Signatures of webhooks by Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, one for each secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

from service_kit.secret import Secret

PREFIX = "whsec_"


def signed_headers(delivery_id: str, moment: datetime, body: bytes, secrets: Sequence[Secret]) -> dict[str, str]:
    """Return the three headers of a webhook that is posted now. A receiver that knows one of the secrets takes it."""
    timestamp = str(int(moment.timestamp()))
    signed = b".".join([delivery_id.encode(), timestamp.encode(), body])
    signatures = [hmac.new(_key(secret), signed, hashlib.sha256).digest() for secret in secrets]
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode('ascii')}" for one in signatures),
    }


def _key(secret: Secret) -> bytes:
    return base64.b64decode(secret.reveal().removeprefix(PREFIX), validate=True)

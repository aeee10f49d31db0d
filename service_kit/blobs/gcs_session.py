"""The client of Google Cloud Storage, and its connections: how many are kept, and through which proxy they lead."""

from __future__ import annotations

from typing import Any

from google.auth.credentials import Credentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from requests.adapters import HTTPAdapter

_PIECE_BYTES = 1 << 20


class _LargePieces(HTTPAdapter):
    """Reads what comes in pieces of 1 MiB. The client asks for 8 KiB, and takes longer for each than its bytes do."""

    def build_response(self, req: Any, resp: Any) -> Any:
        """Return the answer to a request."""
        stream = resp.stream
        resp.stream = lambda amt, decode_content=None: stream(max(amt, _PIECE_BYTES), decode_content)
        return super().build_response(req, resp)


def client_of(credentials: Credentials, connections: int) -> storage.Client:
    """Return a client that keeps so many connections. It takes proxies and certificates as they are now.

    Left to itself, `requests` looks through the environment, and for a file of passwords, at each request: a tenth of
    what a small one takes.
    """
    session = AuthorizedSession(credentials)
    # No call needs a project: buckets are named by themselves.
    client = storage.Client(project=None, credentials=credentials, _http=session)
    found = session.merge_environment_settings(client.api_endpoint, {}, None, None, None)
    session.proxies.update(found["proxies"])
    session.verify = found["verify"]
    session.trust_env = False
    for scheme in ("https://", "http://"):
        session.mount(scheme, _LargePieces(pool_connections=1, pool_maxsize=connections))
    return client

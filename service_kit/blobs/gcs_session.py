"""The client of Google Cloud Storage, and its connections: how many are kept, and through which proxy they lead."""

from __future__ import annotations

from google.auth.credentials import Credentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from requests.adapters import HTTPAdapter


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
        session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=connections))
    return client

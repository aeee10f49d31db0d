"""Google Cloud Storage without a key file: credentials of a machine, and addresses that Google signs for an account.

A stand-in plays the metadata server of a machine (as Google documents it for Compute Engine) and the IAM Credentials
API; what is signed is verified with the account's public key as Google Cloud Storage does it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from google.auth import iam
from google.auth.compute_engine import _metadata

from service_kit.blobs import open_store
from service_kit.errors import FailedPrecondition
from service_kit.settings import for_tests
from tests.support.gcs import CREDENTIALS_ENV, EMULATOR_ENV

ACCOUNT = "gateway@tests.iam.gserviceaccount.com"
OTHER = "signer@tests.iam.gserviceaccount.com"
BUCKET = "workspace-temp"


class Google:
    """The stand-in, and what it was asked."""

    def __init__(self) -> None:
        self.keys = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in (ACCOUNT, OTHER)}
        self.may_sign = {ACCOUNT, OTHER}
        self.has_account = True
        self.signed_for: list[str] = []
        self.scopes: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"

    def get(self, path: str) -> tuple[int, object]:
        """Answer as the metadata server does."""
        route = urlsplit(path)
        query = dict(parse_qsl(route.query))
        if route.path == "/":
            return 200, ""
        if route.path.endswith("/project/project-id"):
            return 200, "tests"
        if not self.has_account or "/service-accounts/" not in route.path:
            return 404, "not found"
        if route.path.endswith("/token"):
            self.scopes.append(query.get("scopes", ""))
            return 200, {"access_token": f"of-{query.get('scopes')}", "expires_in": 3600, "token_type": "Bearer"}
        return 200, {"email": ACCOUNT, "scopes": ["https://www.googleapis.com/auth/cloud-platform"], "aliases": []}

    def post(self, path: str, authorization: str, body: bytes) -> tuple[int, object]:
        """Answer as the IAM Credentials API does."""
        account = path.rpartition("/")[2].removesuffix(":signBlob")
        if account not in self.may_sign or authorization != "Bearer of-https://www.googleapis.com/auth/iam":
            return 403, {"error": {"code": 403, "message": "Permission 'iam.serviceAccounts.signBlob' denied"}}
        self.signed_for.append(account)
        payload = base64.b64decode(json.loads(body)["payload"])
        signature = self.keys[account].sign(payload, padding.PKCS1v15(), SHA256())
        return 200, {"keyId": "1", "signedBlob": base64.b64encode(signature).decode()}

    def verify(self, account: str, url: str) -> None:
        """Check a V4 signature. Raises InvalidSignature."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        signature = bytes.fromhex(query.pop("X-Goog-Signature"))
        assert query["X-Goog-Credential"].startswith(f"{account}/")
        sorted_query = "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))
        request = f"GET\n{parts.path}\n{sorted_query}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
        scope = query["X-Goog-Credential"].partition("/")[2]
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{digest}"
        self.keys[account].public_key().verify(signature, text.encode(), padding.PKCS1v15(), SHA256())


def _handler(google: Google) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(*google.get(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._answer(*google.post(self.path, self.headers["authorization"], body))

        def _answer(self, status: int, said: object) -> None:
            text = isinstance(said, str)
            data = str(said).encode() if text else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("metadata-flavor", "Google")
            self.send_header("content-type", "application/text" if text else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    return Handler


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    """A machine of Google's, without a key file or an emulator."""
    stand_in = Google()
    for name in (EMULATOR_ENV, CREDENTIALS_ENV, "GCE_METADATA_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-cloud-sdk"))
    monkeypatch.setenv("GCE_METADATA_IP", stand_in.host)
    monkeypatch.setenv("GCE_METADATA_HOST", stand_in.host)
    # Read from the environment when the modules were imported.
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", stand_in.host)
    monkeypatch.setattr(_metadata, "_GCE_DEFAULT_MDS_IP", stand_in.host)
    monkeypatch.setattr(_metadata, "_NO_GCE_CHECK", False)
    endpoint = f"http://{stand_in.host}/v1/projects/-/serviceAccounts/{{}}:signBlob"
    monkeypatch.setattr(iam, "_IAM_SIGN_ENDPOINT", endpoint)
    serving = threading.Thread(target=stand_in.server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield stand_in
    stand_in.server.shutdown()
    serving.join()
    stand_in.server.server_close()


def settings_of(tmp_path: Path, account: str) -> Any:
    return for_tests(tmp_path, blobs__url="gs://acme", blobs__signing_account=account)


@pytest.mark.parametrize(("setting", "account"), [("default", ACCOUNT), (OTHER, OTHER)])
async def test_google_signs_for_an_account_without_a_key(
    google: Google, tmp_path: Path, setting: str, account: str
) -> None:
    store = open_store(settings_of(tmp_path, setting))
    assert store.origin == "https://storage.googleapis.com"
    signed = await store.sign(BUCKET, "a/b%40c", "17", ttl=timedelta(hours=1))
    await store.close()
    assert signed is not None
    google.verify(account, signed.url)
    with pytest.raises(InvalidSignature):
        google.verify(account, signed.url.replace("generation=17", "generation=18"))
    assert google.signed_for == [account]
    assert "https://www.googleapis.com/auth/iam" in google.scopes


async def test_without_a_signer_the_gateway_serves_the_bytes(google: Google, tmp_path: Path) -> None:
    store = open_store(settings_of(tmp_path, ""))
    assert (store.origin, await store.sign(BUCKET, "a", "1", ttl=timedelta(hours=1))) == ("", None)
    await store.close()
    assert google.signed_for == []


async def test_an_account_that_may_not_sign_stops_no_picture(google: Google, tmp_path: Path, caplog: Any) -> None:
    google.may_sign = set()
    store = open_store(settings_of(tmp_path, "default"))
    assert await store.sign(BUCKET, "a", "1", ttl=timedelta(hours=1)) is None
    google.may_sign = {ACCOUNT}
    assert await store.sign(BUCKET, "a", "1", ttl=timedelta(hours=1)) is None, "nobody is asked again at once"
    await store.close()
    assert google.signed_for == []


def test_an_account_that_cannot_be_found_out_is_asked_for(google: Google, tmp_path: Path) -> None:
    google.has_account = False
    with pytest.raises(FailedPrecondition, match="Name the account by its e-mail address"):
        open_store(settings_of(tmp_path, "default"))

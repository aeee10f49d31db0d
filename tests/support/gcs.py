"""The emulator of Google Cloud Storage for tests: started, with buckets, and ended; and keys that sign addresses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET

ROOT = Path(__file__).resolve().parents[2]
EMULATOR_ENV = "STORAGE_EMULATOR_HOST"
CREDENTIALS_ENV = "GOOGLE_APPLICATION_CREDENTIALS"


@contextmanager
def emulator(*options: str) -> Iterator[str]:
    """Run the emulator; give its address. See tests/support/gcs_emulator.py for the options."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.gcs_emulator", *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the emulator has no pipes")
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def make_buckets(url: str, prefix: str) -> None:
    """Make the buckets of one prefix."""
    for bucket in (WORKSPACE_BUCKET, LIBRARY_BUCKET):
        httpx.post(f"{url}/storage/v1/b", json={"name": f"{prefix}-{bucket}"}).raise_for_status()


def write_key_file(path: Path) -> Path:
    """Write the key file of a service account that nobody knows: it signs, and Google would refuse it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    account = {
        "type": "service_account",
        "project_id": "tests",
        "private_key_id": "1",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "client_email": "tests@tests.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:1/token",
    }
    path.write_text(json.dumps(account))
    return path

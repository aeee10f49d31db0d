"""The lines of docs/webhooks.md that verify signatures: run against what the gateway signs."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.webhooks.signing import signed_headers
from router_service.webhook_domain import RETRY_AFTER
from service_kit.secret import Secret
from service_kit.settings_table import OutgoingSettings, default_of
from tests.docs.blocks import DOCS, joined
from tests.docs.test_quickstart import need

PAGE = DOCS / "webhooks.md"
OLD, NEW, OTHER = (Secret(f"whsec_{letter * 43}=") for letter in "OYg")
BODY = '{"type":"job.completed","prompt":"ein Bär"}'

Verify = Callable[[dict[str, str], str, Secret], bool]


def by_python(headers: dict[str, str], body: str, secret: Secret) -> bool:
    names: dict[str, Any] = {}
    exec(joined(PAGE, "python"), names)
    try:
        names["verify"](headers, body.encode(), secret.reveal())
    except ValueError:
        return False
    return True


@pytest.fixture
def by_javascript(tmp_path: Path) -> Verify:
    (tmp_path / "verify.mjs").write_text(joined(PAGE, "javascript"), "utf-8")
    program = 'import { verify } from "./verify.mjs"; for (const one of JSON.parse(process.argv[1])) {'
    program += " try { verify(...one); console.log(true) } catch { console.log(false) } }"
    node = need("node")

    def verify(headers: dict[str, str], body: str, secret: Secret) -> bool:
        command = [node, "--input-type=module", "-e", program, json.dumps([[headers, body, secret.reveal()]])]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True, timeout=60)
        return done.stdout.strip() == "true"

    return verify


def check(verify: Verify) -> None:
    now = datetime.now(UTC)
    headers = signed_headers("d-1", now, BODY.encode(), [NEW, OLD])
    assert verify(headers, BODY, OLD)
    assert verify(headers, BODY, NEW)
    assert not verify(headers, BODY, OTHER)
    assert not verify(headers, BODY + " ", NEW)
    assert not verify({**headers, "webhook-id": "d-2"}, BODY, NEW)
    assert not verify({**headers, "webhook-timestamp": str(int(time.time()) + 1)}, BODY, NEW)
    assert not verify(signed_headers("d-1", now - timedelta(minutes=6), BODY.encode(), [NEW]), BODY, NEW)


def test_the_lines_of_python_verify() -> None:
    check(by_python)


def test_the_lines_of_javascript_verify(by_javascript: Verify) -> None:
    check(by_javascript)


def test_the_page_says_what_is_so() -> None:
    text = " ".join(PAGE.read_text("utf-8").split())
    waits = ["5 s", "30 s", "2 min", "10 min", "30 min", "1 h", "2 h", "4 h", "8 h"]
    seconds = {"s": 1, "min": 60, "h": 3600}
    assert [timedelta(seconds=int(n) * seconds[unit]) for n, unit in (wait.split() for wait in waits)] == [*RETRY_AFTER]
    assert ", ".join(waits[:-1]) + " and " + waits[-1] in text
    assert default_of(OutgoingSettings.__dataclass_fields__["webhook_timeout"]) == timedelta(seconds=10)

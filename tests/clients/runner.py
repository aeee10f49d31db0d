"""What the calls of a Python client are written with; runs in the client's own environment, with nothing of ours.

    from runner import call, main, URL, KEY

    @call("images.generate")
    def generate() -> None:
        assert ...

    main()

Every call runs, in order; a line of JSON says what became of it: `{"call": "images.generate", "error": null}`.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable

URL = os.environ["ATELIER_URL"]
"""The gateway."""
FAULTY_URL = os.environ["ATELIER_FAULTY_URL"]
"""A proxy to it that answers 500 to the first POST of every path, after the job was accepted."""
TLS_URL = os.environ["ATELIER_TLS_URL"]
"""The gateway by TLS; SSL_CERT_FILE, and NODE_EXTRA_CA_CERTS, name the authority that signed its certificate."""
KEY = os.environ["ATELIER_KEY"]
ONCE = "a heron that is asked for once"
"""A prompt for calls by FAULTY_URL: the test counts its jobs, and there is to be one for each such call."""

_CALLS: dict[str, Callable[[], None]] = {}


def call(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Name a call as its row in coverage.toml does."""

    def keep(function: Callable[[], None]) -> Callable[[], None]:
        _CALLS[name] = function
        return function

    return keep


def main() -> None:
    """Run every call."""
    for name, function in _CALLS.items():
        error = None
        try:
            function()
        except Exception:  # noqa: BLE001
            error = traceback.format_exc()
        sys.stdout.write(json.dumps({"call": name, "error": error}) + "\n")
        sys.stdout.flush()

"""The tests in the environments of other clients run where these are asked for: `make test-clients` makes them."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("WITH_CLIENTS") else ["test_clients.py"]

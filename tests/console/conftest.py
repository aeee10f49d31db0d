"""The tests in a real browser run where Playwright is: `make test-console` brings it."""

from __future__ import annotations

import importlib.util

collect_ignore = [] if importlib.util.find_spec("playwright") else ["test_in_browser.py"]

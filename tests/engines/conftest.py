"""The tests of engines run where their libraries are asked for: `make test-engines` installs them."""

from __future__ import annotations

import os
from pathlib import Path

collect_ignore = [] if os.environ.get("WITH_ENGINES") else [path.name for path in Path(__file__).parent.glob("test_*.py")]

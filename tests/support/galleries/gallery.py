"""Galleries as other tools leave them: five files for each tool.

    python -m tests.support.galleries.gallery FOLDER

writes them, to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.galleries.automatic1111 import AUTOMATIC1111
from tests.support.galleries.comfyui import COMFYUI
from tests.support.galleries.invokeai import INVOKEAI
from tests.support.galleries.pictures import Fixture

TOOLS: Mapping[str, tuple[Fixture, ...]] = {
    "automatic1111": AUTOMATIC1111,
    "comfyui": COMFYUI,
    "invokeai": INVOKEAI,
}


def write_gallery(folder: Path) -> dict[str, Fixture]:
    """Write every fixture into a folder of its tool. Returns them by their path in the gallery."""
    made: dict[str, Fixture] = {}
    for tool, fixtures in TOOLS.items():
        (folder / tool).mkdir(parents=True, exist_ok=True)
        for fixture in fixtures:
            name = f"{tool}/{fixture.name}"
            fixture.write(folder / name, 1 + len(made))
            made[name] = fixture
    return made


if __name__ == "__main__":
    write_gallery(Path(sys.argv[1]))

"""Copies the google/api and google/rpc files that `protos/` imports, so that buf finds them offline.

Run as `python scripts/googleapis.py build/googleapis`.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORT = re.compile(r'^import (?:public )?"(google/(?:api|rpc|type|longrunning)/[^"]+)";', re.MULTILINE)


def imported_files(folder: Path, installed: Path) -> set[str]:
    """Return every google/… file that the .proto files of `folder` import, directly or through one another."""
    found: set[str] = set()
    waiting = list(folder.rglob("*.proto"))
    while waiting:
        for name in IMPORT.findall(waiting.pop().read_text(encoding="utf-8")):
            if name not in found:
                found.add(name)
                waiting.append(installed / name)
    return found


def main() -> None:
    """Fill the folder named on the command line; what was there before is replaced."""
    out = Path(sys.argv[1])
    installed = Path(str(importlib.metadata.distribution("googleapis-common-protos").locate_file("")))
    shutil.rmtree(out, ignore_errors=True)
    # buf refuses an empty module, so the annotations are there even before a file imports them.
    always = {"google/api/annotations.proto", "google/api/http.proto"}
    for name in sorted(imported_files(ROOT / "protos", installed) | always):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(installed / name, out / name)


if __name__ == "__main__":
    main()

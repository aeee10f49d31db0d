"""What the generated references share: tables, and writing a page only when it changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def generated_by(module: str) -> str:
    """Return the line that tells readers not to edit a page."""
    return f"<!-- Made by `python -m {module}`; edit the source that it reads, not this page. -->\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells may hold anything but line breaks."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write(name: str, text: str) -> None:
    """Write a page of the documents and say so."""
    path = DOCS / name
    path.write_text(text, "utf-8")
    print(f"wrote {path.relative_to(DOCS.parent)}")

"""Paints every good image request of the tests' data into one sheet: docs/images/contact-sheet.webp.

The sheet is the same, byte for byte, each time: `python scripts/contact_sheet.py`, or with another path to write to.
Requests without a seed are painted with seed 1, each at the size of its own aspect ratio.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from atelier_worker.engine import Task
from atelier_worker.engines.sketch.image import render

ROOT = Path(__file__).resolve().parents[1]
REQUESTS = ROOT / "tests" / "data" / "requests.jsonl"
SHEET = ROOT / "docs" / "images" / "contact-sheet.webp"

ROW_HEIGHT, GAP, ROWS = 320, 12, 4
SIZES = {"1:1": (1024, 1024), "16:9": (1360, 768), "9:16": (768, 1360)}
PAPER = (246, 243, 236)
BLANK = Task(
    stage="generate",
    format="image",
    model="sdxl",
    prompt="",
    negative_prompt="",
    seed=0,
    quantity=1,
    width=1024,
    height=1024,
    steps=1,
    quality="standard",
    references=(),
    frames=0,
    fps=0,
    indexes=(0,),
)


def pictures() -> list[Image.Image]:
    """The picture of each good request, all of one height."""
    made = []
    for line in REQUESTS.read_text("utf-8").splitlines():
        entry = json.loads(line)
        if "refused" in entry:
            continue
        request = entry["request"]
        width, height = SIZES[request.get("aspect_ratio", "1:1")]
        order = replace(
            BLANK,
            prompt=request["prompt"],
            negative_prompt=request.get("negative_prompt", ""),
            width=width,
            height=height,
        )
        picture = render(order, request.get("seed", 1))
        made.append(picture.resize((round(width * ROW_HEIGHT / height), ROW_HEIGHT), Image.Resampling.LANCZOS))
    return made


def lay_out(made: list[Image.Image]) -> Image.Image:
    """The pictures in order, in rows as equally wide as whole pictures allow, each row centred."""
    share = sum(picture.width for picture in made) / ROWS
    rows: list[list[Image.Image]] = [[] for _ in range(ROWS)]
    before = 0
    for picture in made:
        rows[min(ROWS - 1, int((before + picture.width / 2) / share))].append(picture)
        before += picture.width
    widths = [sum(picture.width for picture in row) + GAP * (len(row) + 1) for row in rows]
    sheet = Image.new("RGB", (max(widths), ROWS * (ROW_HEIGHT + GAP) + GAP), PAPER)
    for index, (row, width) in enumerate(zip(rows, widths, strict=True)):
        x = (sheet.width - width) // 2 + GAP
        for picture in row:
            sheet.paste(picture, (x, GAP + index * (ROW_HEIGHT + GAP)))
            x += picture.width + GAP
    return sheet


def main() -> None:
    """Write the sheet and say where and how large it is."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else SHEET
    path.parent.mkdir(parents=True, exist_ok=True)
    lay_out(pictures()).save(path, "WEBP", quality=82, method=6)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

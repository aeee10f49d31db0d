"""Makes the picture of the page that the documents show: `make screenshot` writes docs/images/page.webp.

A whole Atelier runs on free ports and a folder of its own, some requests are made, and Chromium looks at the page while
one more picture grows.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.console.browser import chromium, signed_in
from tests.support.system import UpProcess, up_process

SIZE = {"width": 1280, "height": 860}
MAX_BYTES = 300_000
FIRST = (
    ("a lighthouse on a basalt cliff in a storm, long exposure, teal and slate", 7),
    ("a red bicycle leaning on a whitewashed wall, noon light", 3),
    ("paper boats drifting down a gutter in spring rain", 42),
    ("panorama of terraced rice fields at dawn, mist between the steps", 11),
    ("a cat asleep on a windowsill, late afternoon", 5),
)
LAST = "a harbour at night, lanterns on the water"


def prepare(up: UpProcess) -> None:
    """Fill workspace and library."""
    with up.client() as client:
        for prompt, seed in FIRST:
            made = client.generate(prompt, model="sdxl", format="image", seed=seed)
        client.save(made.assets[0].asset_id)


def take(page: Page) -> bytes:
    """Return the page as a PNG, while a picture grows."""
    page.fill("#prompt", LAST)
    page.fill("[name=quantity]", "3")
    page.fill("[name=seed]", "21")
    page.check("[name=enhance_prompt]")
    page.click("#request button[type=submit]")
    page.locator("atelier-job .canvas img").nth(1).wait_for(timeout=60_000)
    # The second picture is half done then: sharp enough to see what it becomes.
    page.wait_for_timeout(700)
    page.locator("#announcer").evaluate("line => line.replaceChildren()")
    png: bytes = page.screenshot()
    return png


def main() -> None:
    """Write the picture to the file named on the command line; end with code 1 when it would be too large."""
    with tempfile.TemporaryDirectory(prefix="atelier-screenshot-") as folder:
        with up_process(Path(folder), "--set", "sketch.step_delay=120ms") as up, chromium() as browser:
            up.wait_for_workers()
            prepare(up)
            with signed_in(browser, up, viewport=SIZE, color_scheme="light") as page:
                png = take(page)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "WEBP", quality=88, method=6)
    if buffer.tell() > MAX_BYTES:
        sys.exit(f"the picture has {buffer.tell()} bytes, more than {MAX_BYTES}: choose a smaller window or quality")
    Path(sys.argv[1]).write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()

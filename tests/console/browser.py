"""Chromium on a page of a running system: signed in by a code, as the address that `atelier up` prints does it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.system import UpProcess

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the Chromium of this machine."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise RuntimeError("there is no Chromium on the PATH: install the package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def sign_in_address(up: UpProcess) -> str:
    """Return the page's address with a new code."""
    with up.client() as client:
        return f"{up.url}/#code={client.create_sign_in_code().code}"


@contextmanager
def signed_in(browser: Browser, up: UpProcess, **options: Any) -> Iterator[Page]:
    """Give the page in a window of its own, signed in; `options` are those of the window."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(sign_in_address(up))
    page.wait_for_selector("body[data-signed-in]")
    yield page
    context.close()

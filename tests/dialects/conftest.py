"""One whole Atelier, with a worker of the sketch engine, for the tests of all dialects; what they need of it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from PIL import Image

from tests.support.system import System, running_system

EVENT_STREAMS = 20
"""How many event streams an owner may have open."""


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Every service, the gateway and a worker."""
    async with running_system(
        tmp_path_factory.mktemp("dialects"),
        sketch__step_delay="5ms",
        outgoing__allow="127.0.0.1",
        gateway__event_streams_per_owner=str(EVENT_STREAMS),
    ) as running:
        yield running


@pytest.fixture
def picture() -> bytes:
    """Give a PNG of 64 × 64 pixels."""
    return png(Image.new("RGB", (64, 64), "teal"))


@pytest.fixture
def mask() -> bytes:
    """Give a PNG that is transparent in its left half."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    return png(image)


def damaged(address: str) -> str:
    """Return a signed address with another signature, whatever the one is that it ends with."""
    return address[:-2] + ("B" if address[-2] == "A" else "A") + address[-1]


def png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()

"""Connections that break at random places: at most one chunk goes again, from a worker and from a client."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atelier_client import AsyncAtelier, Policy, _upload
from atelier_worker import uploads as worker_uploads
from atelier_worker import whole_outputs
from atelier_worker.patience import Patience
from atelier_worker.uploads import Transfers
from service_kit.channels import connect
from service_kit.ids import new_id
from tests.asset_service.harness import Harness
from tests.asset_service.pictures import png
from tests.support.cuts import cut_link, places
from tests.support.system import running_system

CHUNK_BYTES, PIECE_BYTES = 128 << 10, 32 << 10
CUTS, SEED = 20, 20_26
# Bytes between the cuts, so that every cut finds an upload under way.
PICTURE = png(1200, 1000)


class Sent:
    """What was sent of one file, in order: where each chunk began, and how far it went."""

    def __init__(self) -> None:
        self.reached = 0
        self.again: list[int] = []

    def note(self, offset: int, length: int) -> None:
        """Note a piece that is being sent."""
        if offset < self.reached:
            self.again.append(self.reached - offset)
        self.reached = offset + length


@pytest.fixture
def sent() -> Sent:
    return Sent()


async def test_a_worker_sends_at_most_one_chunk_again(
    harness: Harness, tmp_path: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_uploads, "CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(worker_uploads, "_PIECE_BYTES", PIECE_BYTES)
    # As a large one, that does not go as one message.
    monkeypatch.setattr(whole_outputs, "_WHOLE_FILE_BYTES", CHUNK_BYTES)
    read = worker_uploads._read_piece

    def reading(path: Path, offset: int, length: int) -> bytes:
        data = read(path, offset, length)
        if data:
            sent.note(offset, len(data))
        return data

    monkeypatch.setattr(worker_uploads, "_read_piece", reading)
    path = tmp_path / "output.png"
    path.write_bytes(PICTURE)
    lease = harness.lease(new_id(), max_bytes=len(PICTURE))
    token = harness.capabilities.sign_lease(lease)
    async with cut_link(harness.service.server.target, places(SEED, CUTS, len(PICTURE))) as link:
        channel = connect(link.link.target)
        try:
            patience = Patience(timedelta(seconds=30), 0.01)
            receipt = await Transfers(channel, token, patience).upload_output(0, path, {})
        finally:
            await channel.close()
    assert link.cuts == CUTS
    assert max(sent.again) <= CHUNK_BYTES
    assert link.sent_bytes <= len(PICTURE) + CUTS * CHUNK_BYTES + (64 << 10)
    await harness.settle(lease.job_id, {0: receipt})
    (asset,) = await harness.listed()
    assert asset.media.sha256 == hashlib.sha256(PICTURE).hexdigest()


async def test_a_client_sends_at_most_one_chunk_again(
    tmp_path: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_upload, "CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(_upload, "WHOLE_BYTES", 0)
    append = _upload.Outgoing.append

    def appending(self: _upload.Outgoing, at: _upload.Reached) -> Any:
        call = append(self, at)
        if call is not None:
            sent.note(at.received_bytes, len(call.content or b""))
        return call

    monkeypatch.setattr(_upload.Outgoing, "append", appending)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(running_system(tmp_path, worker=False))
        target = system.url.removeprefix("http://")
        link = await stack.enter_async_context(cut_link(target, places(SEED, CUTS, len(PICTURE))))
        policy = Policy(attempts=10, first_pause=0.01)
        address = f"http://{link.link.target}"
        client = await stack.enter_async_context(AsyncAtelier(address, system.key(), policy=policy))
        asset = await client.upload(PICTURE, "large.png")
    assert link.cuts == CUTS
    assert sent.again
    assert max(sent.again) <= CHUNK_BYTES
    assert (asset.media.sha256, asset.filename) == (hashlib.sha256(PICTURE).hexdigest(), "large.png")

"""Several small references whose bytes come in a file of a worker on this machine, and not in the message."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asset_service import handover
from asset_service.handover import AT_ONCE, Handover
from atelier.asset.v1 import upload_service_pb2 as pb
from service_kit.ids import new_id
from tests.asset_service.harness import Harness
from tests.asset_service.test_references_together import PICTURES, reading

OLD = b"what an earlier call has left" * 10_000


def place(harness: Harness, content: bytes = OLD) -> Path:
    """Make a file as workers do: it has what came with an earlier call."""
    path = harness.service.settings.handover_dir / secrets.token_hex(16)
    path.write_bytes(content)
    return path


async def ask(harness: Harness, name: str, *, unknown: bool = False) -> pb.ReadReferencesResponse:
    """Read the pictures, and perhaps one between them that the lease does not name."""
    lease, ids = await reading(harness)
    token = harness.capabilities.sign_lease(lease)
    wanted = [*ids[:1], *([new_id()] if unknown else []), *ids[1:]]
    request = pb.ReadReferencesRequest(
        references=[pb.LeasedReference(lease_token=token, asset_id=one) for one in wanted], handover_name=name
    )
    return await harness.uploads.ReadReferences(request, metadata=harness.as_worker(lease))


async def test_bytes_lie_one_behind_the_other_and_none_are_in_the_message(harness: Harness) -> None:
    path = place(harness)
    reply = await ask(harness, path.name, unknown=True)
    assert not any(one.HasField("data") for one in reply.references)
    sizes = [one.handed_over_bytes if one.HasField("handed_over_bytes") else None for one in reply.references]
    assert sizes == [len(PICTURES[0]), None, len(PICTURES[1]), len(PICTURES[2])]
    content = await asyncio.to_thread(path.read_bytes)
    assert content[: sum(map(len, PICTURES))] == b"".join(PICTURES)
    # The service is done with it when it has answered: the worker may have it written over.
    assert path.stat().st_nlink == 1


def _gone(path: Path) -> str:
    path.unlink()
    return path.name


def _elsewhere(path: Path) -> str:
    return f"../{path.parent.name}/{path.name}"[:32]


def _link(path: Path) -> str:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)
    return path.name


def _second_name(path: Path) -> str:
    path.with_name("second").hardlink_to(path)
    return path.name


def _pipe(path: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return path.name


def _open_to_others(path: Path) -> str:
    path.parent.chmod(0o755)
    return path.name


@pytest.mark.parametrize("change", [_gone, _elsewhere, _link, _second_name, _pipe, _open_to_others])
async def test_what_is_no_file_that_was_made_for_this_is_left_as_it_is(
    harness: Harness, change: Callable[[Path], str]
) -> None:
    path = place(harness)
    reply = await ask(harness, change(path))
    assert [one.data for one in reply.references] == [*PICTURES]
    if path.is_file():
        assert await asyncio.to_thread(path.read_bytes) == OLD


async def test_without_room_the_bytes_come_in_the_message(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handover, "write_at", full)
    reply = await ask(harness, place(harness).name)
    assert [one.data for one in reply.references] == [*PICTURES]


async def test_only_a_few_are_written_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads are those of the whole service, and anybody who may read a reference has them written."""
    place, begun, go_on = Handover(tmp_path), list[Any](), asyncio.Event()

    async def in_a_thread(*what: Any) -> None:
        begun.append(what)
        await go_on.wait()

    monkeypatch.setattr(asyncio, "to_thread", in_a_thread)
    calls = [asyncio.ensure_future(place.write_over("0" * 32, [b"picture"])) for _ in range(3 * AT_ONCE)]
    # All of them begin, and wait: for their turn, or for what they write.
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(begun) == AT_ONCE
    # A thread writes on though its call was left, and so keeps its place.
    left, rest = calls[:AT_ONCE], calls[AT_ONCE:]
    for call in left:
        call.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(begun) == AT_ONCE
    go_on.set()
    assert await asyncio.gather(*rest) == [True] * len(rest)
    assert [call.cancelled() for call in left] == [True] * AT_ONCE
    assert len(begun) == len(calls)

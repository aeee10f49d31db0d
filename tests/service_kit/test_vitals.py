"""What a service cannot do without is looked at, and its health follows."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from service_kit.health import HealthBoard
from service_kit.vitals import Vitals


class Store:
    """Answers, fails, or hangs."""

    def __init__(self) -> None:
        self.state = "works"

    async def ask(self) -> None:
        if self.state == "fails":
            raise OSError("/secret/path is gone")
        if self.state == "hangs":
            await asyncio.Event().wait()


async def test_health_follows_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.vitals._LIMIT", timedelta(milliseconds=5))
    board, store, database = HealthBoard(), Store(), Store()
    vitals = Vitals(board, {"database": database.ask, "blob_store": store.ask})
    board.start(())
    served = []
    for state in ("works", "fails", "works", "hangs", "works"):
        store.state = state
        await vitals.look()
        served.append(board.serving)
        assert board.dependencies["database"].serving
        assert "secret" not in board.dependencies["blob_store"].detail
    assert served == [True, False, True, False, True]


async def test_it_looks_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.vitals._INTERVAL", timedelta(0))
    board, store = HealthBoard(), Store()
    task = asyncio.create_task(Vitals(board, {"blob_store": store.ask}).run())
    try:
        async with asyncio.timeout(5):
            await board.changed()
            assert board.dependencies["blob_store"].serving
            store.state = "fails"
            await board.changed()
            assert not board.dependencies["blob_store"].serving
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
